# ruff: noqa: E501 — tables are easier to read in long lines
"""Bytes and what they must decode to, by far end. `None`: recorded from the decoder, and reviewed."""

import base64
from typing import Any

Case = dict[str, Any]

LIMITS = '{"message":65536,"payload":1048576,"subscriptions":128,"watched":256,"window":256,"window_bytes":1048576}'
WELCOME = (
    '{"type":"welcome","client_id":"alice","session":"s1","secret":"x","generation":5,"attachment":1,"run":7,'
    '"resumed":false,"durable":false,"heartbeat":{"interval":30000,"timeout":10000,"misses":3},'
    f'"limits":{LIMITS},"time":1795468800123'
)

GOOD: dict[str, list[tuple[str, str]]] = {
    "client": [
        ("hello, the shortest", '{"type":"hello","protocol":1,"client_id":"alice"}'),
        (
            "hello, everything",
            '{"type":"hello","protocol":1,"client_id":"alice","token":"t","session":"s1","secret":"x","run":7,'
            '"features":["a"],"subscriptions":[{"channel":"news","epoch":"e1","offset":4,"presence":true,"state":true}],'
            '"watch":["bob"]}',
        ),
        (
            "hello, empty sets are not absent",
            '{"type":"hello","protocol":1,"client_id":"a","subscriptions":[],"watch":[]}',
        ),
        ("hello, another version is the server's to refuse", '{"type":"hello","protocol":2,"client_id":"a"}'),
        ("goodbye", '{"type":"goodbye"}'),
        ("goodbye with a reason", '{"type":"goodbye","code":1001,"reason":"page closed ✓"}'),
        ("refresh", '{"type":"refresh","id":1,"token":"t"}'),
        ("refresh, no token", '{"type":"refresh","id":2,"token":""}'),
        ("ping", '{"type":"ping","id":3}'),
        ("ping without id", '{"type":"ping"}'),
        ("pong", '{"type":"pong","id":3}'),
        ("pong without id", '{"type":"pong"}'),
        ("message", '{"type":"message","to":"bob","run":7,"seq":1,"base":1,"data":"hi"}'),
        (
            "message, everything",
            '{"type":"message","to":"bob","lane":"bulk","run":7,"seq":9,"base":2,"ack_run":3,"ack":4,"ask":true,'
            '"request":"r1","deadline":5000,"reply":"q1","failed":true,"data":{"a":[1,2.5,null,true,"x"]}}',
        ),
        ("message without data", '{"type":"message","to":"bob","run":7,"seq":1,"base":1}'),
        ("message, data null", '{"type":"message","to":"bob","run":7,"seq":1,"base":1,"data":null}'),
        (
            "message, data with escaped newline",
            '{"type":"message","to":"bob","run":7,"seq":1,"base":1,"data":"a\\nb"}',
        ),
        (
            "message, brackets in a string",
            '{"type":"message","to":"bob","run":7,"seq":1,"base":1,"data":"}{][\\"{"}',
        ),
        (
            "message, astral characters",
            '{"type":"message","to":"bob","run":7,"seq":1,"base":1,"data":"😀\\ud83d\\ude00"}',
        ),
        (
            "message, U+2028 is no newline",
            '{"type":"message","to":"bob","run":7,"seq":1,"base":1,"data":"a\u2028b"}',
        ),
        (
            "message, an unknown lane is the node's to refuse",
            '{"type":"message","to":"b","lane":"fast","run":7,"seq":1,"base":1}',
        ),
        (
            "message that says whose it is: refused later, with `forbidden`",
            '{"type":"message","from":"eve","run":7,"seq":1,"base":1}',
        ),
        ("ack", '{"type":"ack","to":"bob","run":3,"seq":0}'),
        (
            "ack, everything",
            '{"type":"ack","to":"bob","lane":"bulk","run":3,"seq":5,"received":9,"want":true,"limit":265,'
            '"lost":[[2,3,"expired"],[5,5,"refused"]],"by":12}',
        ),
        ("skip", '{"type":"skip","to":"bob","run":7,"seq":2,"last":2,"base":2,"reason":"expired"}'),
        (
            "skip of a range",
            '{"type":"skip","to":"bob","lane":"bulk","run":7,"seq":2,"last":5,"base":1,"reason":"cancelled"}',
        ),
        ("probe", '{"type":"probe","to":"bob","run":7,"seq":4,"base":2}'),
        ("probe with nothing sent", '{"type":"probe","to":"bob","lane":"bulk","run":7,"seq":0,"base":1}'),
        ("watch", '{"type":"watch","id":4,"clients":["bob","carol"]}'),
        ("watch nobody", '{"type":"watch","id":4,"clients":[]}'),
        ("signal", '{"type":"signal","to":"bob","data":{"sdp":"v=0\\r\\n"}}'),
        ("signal null", '{"type":"signal","to":"bob","data":null}'),
        ("ephemeral to a client", '{"type":"ephemeral","to":"bob","data":{"typing":true}}'),
        ("ephemeral to a channel", '{"type":"ephemeral","channel":"news","data":1}'),
        ("subscribe", '{"type":"subscribe","id":5,"channels":[{"channel":"news"}]}'),
        (
            "subscribe from a position",
            '{"type":"subscribe","id":5,"channels":[{"channel":"news","epoch":"e","offset":3},{"channel":"b"}]}',
        ),
        (
            "subscribe, with the shared state",
            '{"type":"subscribe","id":5,"channels":[{"channel":"doc","state":true}]}',
        ),
        ("publish", '{"type":"publish","id":6,"channel":"news","key":"k1","data":[]}'),
        ("publish again", '{"type":"publish","id":6,"channel":"news","key":"k1","age":1200,"data":[]}'),
        ("set", '{"type":"set","id":6,"channel":"doc","name":"title","data":{"text":"a"}}'),
        (
            "set, everything",
            '{"type":"set","id":6,"channel":"doc","name":"title/ä","key":"k1","age":1200,"expect":41,"data":null}',
        ),
        (
            "set what is not there: 0 is not absent",
            '{"type":"set","id":6,"channel":"doc","name":"a","expect":0,"data":1}',
        ),
        ("set, deleted", '{"type":"set","id":6,"channel":"doc","name":"title","deleted":true,"expect":42}'),
        ("history", '{"type":"history","id":7,"channel":"news"}'),
        ("history of the newest", '{"type":"history","id":7,"channel":"news","limit":5,"last":true}'),
        (
            "history from a position",
            '{"type":"history","id":7,"channel":"news","epoch":"e","offset":9,"limit":1000}',
        ),
        ("presence", '{"type":"presence","id":8,"channel":"news"}'),
        ("presence of a channel with a space", '{"type":"presence","id":9,"channel":"news and more"}'),
    ],
    "server": [
        ("welcome", WELCOME + "}"),
        (
            "welcome, everything",
            WELCOME + ',"reconnect_spread":2000,"expires":1795468900000,"server":"duolink 1"}',
        ),
        ("goodbye with spread", '{"type":"goodbye","code":1012,"reason":"restart","spread":2000}'),
        ("goodbye that is final", '{"type":"goodbye","code":3502}'),
        ("refreshed", '{"type":"refreshed","id":1}'),
        ("refreshed until", '{"type":"refreshed","id":1,"expires":1795468800123}'),
        ("server's ping", '{"type":"ping","id":1}'),
        ("server's ping without id", '{"type":"ping"}'),
        ("server's pong without id", '{"type":"pong"}'),
        ("server's pong", '{"type":"pong","id":1}'),
        ("error", '{"type":"error","code":"malformed"}'),
        (
            "error of a link message",
            '{"type":"error","code":"too_large","message":"no","to":"bob","lane":"messages","run":7,"seq":3}',
        ),
        ("error of a channel", '{"type":"error","code":"forbidden","channel":"news","id":5}'),
        (
            "error of a compare-and-set",
            '{"type":"error","code":"conflict","message":"the name has version 42","id":6,"version":42}',
        ),
        ("error of a compare-and-set, not there", '{"type":"error","code":"conflict","id":6}'),
        ("error that is fatal", '{"type":"error","code":"overloaded","retry_after":1500,"fatal":true}'),
        ("message to a client", '{"type":"message","from":"bob","run":3,"seq":1,"base":1,"data":"hi"}'),
        (
            "message as it came, `to` included",
            '{"type":"message","to":"alice","from":"bob","run":3,"seq":1,"base":1,"data":1}',
        ),
        ("ack to a client", '{"type":"ack","from":"bob","run":7,"seq":1}'),
        ("ack that wants", '{"type":"ack","from":"bob","run":7,"seq":1,"received":2,"want":true}'),
        (
            "skip to a client",
            '{"type":"skip","from":"bob","run":3,"seq":2,"last":3,"base":2,"reason":"expired"}',
        ),
        ("probe to a client", '{"type":"probe","from":"bob","run":3,"seq":2,"base":1}'),
        ("wait", '{"type":"wait","to":"bob","run":7,"seq":3}'),
        ("wait of a skip", '{"type":"wait","to":"bob","lane":"bulk","run":7,"seq":3,"last":5}'),
        ("stored", '{"type":"stored","to":"bob","run":7,"seq":3}'),
        ("stored, bulk", '{"type":"stored","to":"bob","lane":"bulk","run":7,"seq":3}'),
        ("watching", '{"type":"watching","id":4}'),
        ("watching, the last id", '{"type":"watching","id":9007199254740991}'),
        (
            "peer is here",
            '{"type":"peer","client_id":"bob","state":"here","run":3,"generation":2,"attachment":1}',
        ),
        ("peer is away", '{"type":"peer","client_id":"bob","state":"away"}'),
        ("peer in a state of a later version", '{"type":"peer","client_id":"bob","state":"sleeping"}'),
        ("signal to a client", '{"type":"signal","from":"bob","generation":2,"run":3,"data":{}}'),
        ("signal without a run", '{"type":"signal","from":"bob","data":0}'),
        ("ephemeral from a client", '{"type":"ephemeral","from":"bob","data":[]}'),
        ("ephemeral of a channel", '{"type":"ephemeral","from":"bob","channel":"news","data":"x"}'),
        ("subscribing", '{"type":"subscribing","id":5}'),
        ("subscribing, id 0", '{"type":"subscribing","id":0}'),
        ("subscribed from now on", '{"type":"subscribed","channel":"news","epoch":"e","offset":9,"id":5}'),
        (
            "subscribed and recovered",
            '{"type":"subscribed","channel":"news","epoch":"e","offset":4,"recovered":true}',
        ),
        (
            "subscribed with a gap",
            '{"type":"subscribed","channel":"news","epoch":"e","offset":6,"gap":{"reason":"evicted","first":5,"last":6}}',
        ),
        (
            "subscribed after another epoch",
            '{"type":"subscribed","channel":"news","epoch":"f","offset":0,"gap":{"reason":"epoch"}}',
        ),
        ("unsubscribed", '{"type":"unsubscribed","channel":"news","code":"forbidden"}'),
        (
            "unsubscribed, come back",
            '{"type":"unsubscribed","channel":"news","code":"moved","resubscribe":true}',
        ),
        ("published", '{"type":"published","id":6,"epoch":"e","offset":10}'),
        ("published first", '{"type":"published","id":6,"epoch":"e","offset":0}'),
        (
            "publication",
            '{"type":"publication","channel":"news","offset":10,"from":"bob","time":1795468800123,"data":{}}',
        ),
        ("publication of a page", '{"type":"publication","channel":"news","offset":3,"page":7,"data":1}'),
        (
            "publication that sets a name",
            '{"type":"publication","channel":"doc","offset":42,"from":"bob","time":1795468800123,"name":"title","data":{"text":"a"}}',
        ),
        (
            "publication that deletes a name",
            '{"type":"publication","channel":"doc","offset":43,"from":"bob","name":"title","deleted":true}',
        ),
        (
            "publication of a snapshot",
            '{"type":"publication","channel":"doc","offset":7,"from":"bob","name":"lock","state":true,"data":"bob"}',
        ),
        ("snapshot", '{"type":"snapshot","channel":"doc","count":2,"id":5}'),
        ("snapshot of nothing, after a hello", '{"type":"snapshot","channel":"doc","count":0}'),
        ("history_page", '{"type":"history_page","id":7,"channel":"news","epoch":"e","offset":10,"count":2}'),
        (
            "history_page with a gap",
            '{"type":"history_page","id":7,"channel":"news","epoch":"e","offset":10,"gap":{"reason":"evicted","first":1,"last":3}}',
        ),
        ("presence_list", '{"type":"presence_list","channel":"news","clients":["alice","bob"],"id":8}'),
        (
            "presence_list that leaves some out",
            '{"type":"presence_list","channel":"news","clients":["alice"],"more":41}',
        ),
        ("presence_list as a snapshot", '{"type":"presence_list","channel":"news","clients":[]}'),
        ("join", '{"type":"join","channel":"news","client_id":"carol"}'),
        ("join of one with an odd name", '{"type":"join","channel":"news","client_id":"c/ä:1"}'),
        ("leave", '{"type":"leave","channel":"news","client_id":"carol"}'),
        ("leave of one with an odd name", '{"type":"leave","channel":"news","client_id":" "}'),
    ],
    "peer": [
        ("message on a data channel", '{"type":"message","run":7,"seq":1,"base":1,"data":"hi"}'),
        ("ack with credit", '{"type":"ack","run":7,"seq":1,"limit":257}'),
        ("skip on a data channel", '{"type":"skip","run":7,"seq":1,"last":1,"base":1,"reason":"expired"}'),
        ("probe on a data channel", '{"type":"probe","run":7,"seq":1,"base":1}'),
        ("ping on a data channel", '{"type":"ping","id":1}'),
        ("pong on a data channel", '{"type":"pong","id":1}'),
    ],
}

M = '{"type":"message","to":"b","run":1,"seq":1,"base":1,"data":'
LAX: list[tuple[str, str]] = [
    ("unknown fields are ignored", '{"type":"ping","id":1,"colour":"red","more":{"a":[1,{}]}}'),
    ("type need not come first", '{"id":1,"type":"ping"}'),
    ("type with escapes", '{"type":"pi\\u006eg","id":1}'),
    ("white space", ' {\t"type" : "ping" , "id" : 1 }\r'),
    ("a field twice: the last counts", '{"type":"ping","id":1,"id":2}'),
    ("the largest integer", '{"type":"ping","id":9007199254740991}'),
]
BAD: list[tuple[str, str, Any, str]] = [
    ("nothing", "client", "", "malformed"),
    ("a space", "client", " ", "malformed"),
    ("an array", "client", '["ping"]', "malformed"),
    ("a string", "client", '"ping"', "malformed"),
    ("null", "client", "null", "malformed"),
    ("a number", "client", "1", "malformed"),
    ("an empty object", "client", "{}", "malformed"),
    ("cut off", "client", '{"type":"ping"', "malformed"),
    ("two messages without a newline", "client", '{"type":"ping"}{"type":"ping"}', "malformed"),
    ("two messages with a space", "client", '{"type":"ping"} {"type":"ping"}', "malformed"),
    ("something behind", "client", '{"type":"ping"} x', "malformed"),
    ("byte order mark", "client", '\ufeff{"type":"ping"}', "malformed"),
    ("single quotes", "client", "{'type':'ping'}", "malformed"),
    ("trailing comma", "client", '{"type":"ping",}', "malformed"),
    ("comment", "client", '{"type":"ping"/**/}', "malformed"),
    ("type is a number", "client", '{"type":5}', "malformed"),
    ("type is null", "client", '{"type":null}', "malformed"),
    ("unknown type", "client", '{"type":"dance"}', "unknown_type"),
    ("unknown type, empty", "client", '{"type":""}', "unknown_type"),
    ("type with other case", "client", '{"type":"Ping"}', "unknown_type"),
    ("type with a space", "client", '{"type":"ping "}', "unknown_type"),
    ("a client's welcome", "client", WELCOME + "}", "unknown_type"),
    ("a client's error", "client", '{"type":"error","code":"x"}', "unknown_type"),
    ("a client's peer", "client", '{"type":"peer","client_id":"bob","state":"here"}', "unknown_type"),
    ("a client's wait", "client", '{"type":"wait","to":"b","run":1,"seq":1}', "unknown_type"),
    ("a client's stored", "client", '{"type":"stored","to":"b","run":1,"seq":1}', "unknown_type"),
    ("a client's publication", "client", '{"type":"publication","channel":"c","offset":1,"data":1}', "unknown_type"),
    ("a client's join", "client", '{"type":"join","channel":"c","client_id":"a"}', "unknown_type"),
    ("a server's hello", "server", '{"type":"hello","protocol":1,"client_id":"a"}', "unknown_type"),
    ("a server's subscribe", "server", '{"type":"subscribe","id":1,"channels":[]}', "unknown_type"),
    ("a server's set", "server", '{"type":"set","id":1,"channel":"c","name":"a","data":1}', "unknown_type"),
    ("a client's snapshot", "client", '{"type":"snapshot","channel":"c","count":0}', "unknown_type"),
    ("a server's publish", "server", '{"type":"publish","id":1,"channel":"c","data":1}', "unknown_type"),
    ("a peer's welcome", "peer", WELCOME + "}", "unknown_type"),
    ("a peer's hello", "peer", '{"type":"hello","protocol":1,"client_id":"a"}', "unknown_type"),
    ("a peer's goodbye", "peer", '{"type":"goodbye"}', "unknown_type"),
    ("a peer's wait", "peer", '{"type":"wait","to":"b","run":1,"seq":1}', "unknown_type"),
    ("a peer's stored", "peer", '{"type":"stored","to":"b","run":1,"seq":1}', "unknown_type"),
    ("a peer's peer", "peer", '{"type":"peer","client_id":"b","state":"away"}', "unknown_type"),
    ("a peer's error", "peer", '{"type":"error","code":"too_large","run":1,"seq":1}', "unknown_type"),
    ("a peer's signal", "peer", '{"type":"signal","data":1}', "unknown_type"),
    ("a peer's publication", "peer", '{"type":"publication","channel":"c","offset":1,"data":1}', "unknown_type"),
    ("an integer beyond 2^53-1", "client", '{"type":"ping","id":9007199254740992}', "malformed"),
    ("an integer beyond 64 bits", "client", '{"type":"ping","id":99999999999999999999}', "malformed"),
    ("an integer of 4,000 digits", "client", ['{"type":"ping","id":', ["9", 4000], "}"], "malformed"),
    ("a negative integer", "client", '{"type":"ping","id":-1}', "malformed"),
    ("a fraction", "client", '{"type":"ping","id":1.5}', "malformed"),
    ("a string for an integer", "client", '{"type":"ping","id":"1"}', "malformed"),
    ("true for an integer", "client", '{"type":"ping","id":true}', "malformed"),
    ("null for an integer", "client", '{"type":"ping","id":null}', "malformed"),
    ("an integer with a leading zero", "client", '{"type":"ping","id":01}', "malformed"),
    ("a number for a boolean", "client", '{"type":"message","to":"b","run":1,"seq":1,"base":1,"ask":1}', "malformed"),
    ("seq 0", "client", '{"type":"message","to":"b","run":1,"seq":0,"base":1}', "malformed"),
    ("run 0", "client", '{"type":"message","to":"b","run":0,"seq":1,"base":1}', "malformed"),
    ("base 0", "client", '{"type":"message","to":"b","run":1,"seq":1,"base":0}', "malformed"),
    ("message without base", "client", '{"type":"message","to":"b","run":1,"seq":1}', "malformed"),
    ("message without run", "client", '{"type":"message","to":"b","seq":1,"base":1}', "malformed"),
    ("hello without client_id", "client", '{"type":"hello","protocol":1}', "malformed"),
    ("hello with an empty client_id", "client", '{"type":"hello","protocol":1,"client_id":""}', "malformed"),
    ("hello with a long client_id", "client", ['{"type":"hello","protocol":1,"client_id":"', ["a", 129], '"}'], "malformed"),
    ("hello with a long token", "client", ['{"type":"hello","protocol":1,"client_id":"a","token":"', ["a", 8193], '"}'], "malformed"),
    ("hello with a lone surrogate", "client", '{"type":"hello","protocol":1,"client_id":"\\ud800"}', "malformed"),
    ("subscribe to an empty channel", "client", '{"type":"subscribe","id":1,"channels":[{"channel":""}]}', "malformed"),
    ("subscribe to a long channel", "client", ['{"type":"subscribe","id":1,"channels":[{"channel":"', ["a", 256], '"}]}'], "malformed"),
    ("subscribe to a string", "client", '{"type":"subscribe","id":1,"channels":["news"]}', "malformed"),
    ("set without a name", "client", '{"type":"set","id":1,"channel":"c","data":1}', "malformed"),
    ("set of an empty name", "client", '{"type":"set","id":1,"channel":"c","name":"","data":1}', "malformed"),
    ("set of a long name", "client", ['{"type":"set","id":1,"channel":"c","name":"', ["n", 256], '","data":1}'], "malformed"),
    ("set that expects less than nothing", "client", '{"type":"set","id":1,"channel":"c","name":"a","expect":-1}', "malformed"),
    ("set that expects null", "client", '{"type":"set","id":1,"channel":"c","name":"a","expect":null}', "malformed"),
    ("publish with a long key", "client", ['{"type":"publish","id":1,"channel":"c","key":"', ["k", 65], '","data":1}'], "malformed"),
    ("history of too much", "client", '{"type":"history","id":1,"channel":"c","limit":1001}', "malformed"),
    ("lost as an object", "client", '{"type":"ack","to":"b","run":1,"seq":1,"lost":[{"first":1}]}', "malformed"),
    ("lost too short", "client", '{"type":"ack","to":"b","run":1,"seq":1,"lost":[[1,2]]}', "malformed"),
    ("signal without data", "client", '{"type":"signal","to":"b"}', "malformed"),
    ("binary in a text payload", "client", '{"type":"message","to":"b","run":1,"seq":1,"base":1,"binary":true}', "malformed"),
    ("data with a control character", "client", M + '"\x01"}', "malformed"),
    ("data with a tab in a string", "client", M + '"a\tb"}', "malformed"),
    ("data with a bad escape", "client", M + '"\\x41"}', "malformed"),
    ("data with half an escape", "client", M + '"\\u12"}', "malformed"),
    ("data with a lone high surrogate", "client", M + '"\\ud800"}', "malformed"),
    ("data NaN", "client", M + "NaN}", "malformed"),
    ("data with a leading zero", "client", M + "01}", "malformed"),
    ("data missing", "client", M + "}", "malformed"),
    ("data unfinished", "client", M + "[1}", "malformed"),
    ("invalid UTF-8 in data", "client", [M + '"', {"base64": "/w=="}, '"}'], "malformed"),
    ("overlong UTF-8 in data", "client", [M + '"', {"base64": "wIA="}, '"}'], "malformed"),
    ("an encoded surrogate in data", "client", [M + '"', {"base64": "7aCA"}, '"}'], "malformed"),
    ("invalid UTF-8 in an unknown field", "client", ['{"type":"ping","', {"base64": "gA=="}, '":1}'], "malformed"),
    ("invalid UTF-8 in the type", "client", ['{"type":"', {"base64": "/w=="}, '"}'], "malformed"),
    ("data 65 deep", "client", [M, ["[", 65], ["]", 65], "}"], "malformed"),
    ("data 65 objects deep", "client", [M, ['{"a":', 65], "1", ["}", 65], "}"], "malformed"),
    ("data 20,000 deep", "client", [M, ["[", 20000], ["]", 20000], "}"], "malformed"),
    ("an unknown field 2,000 deep", "client", ['{"type":"ping","x":', ["[", 2000], ["]", 2000], "}"], "malformed"),
    ("20,000 brackets never closed", "client", [["[", 20000]], "malformed"),
    ("an unfinished string of quotes", "client", [["[", 66], '"', ['\\"', 20000]], "malformed"),
    ("one byte too large", "client", [M + '"', ["a", 65536 - len(M) - 2], '"}'], "too_large"),
    ("a payload of 1,025 lines", "client", [['{"type":"ping"}\n', 1024], '{"type":"ping"}'], "limit"),
]  # fmt: skip

GOOD_SIZES: list[tuple[str, str, Any, Any]] = [
    ("data exactly 64 deep", "client", [M, ["[", 64], ["]", 64], "}"], 64),
    ("exactly 65,536 bytes", "client", [M + '"', ["a", 65536 - len(M) - 3], '"}'], None),
    (
        "a client_id of 128 bytes",
        "client",
        ['{"type":"hello","protocol":1,"client_id":"', ["a", 128], '"}'],
        None,
    ),
    ("many brackets, not deep", "client", [M + "[", ["[],", 200], "[]]}"], None),
]

MANY: list[tuple[str, str, Any, list[str]]] = [
    ("two messages", "client", '{"type":"ping","id":1}\n{"type":"pong","id":2}', ["ping", "pong"]),
    ("a newline at the end makes an empty line", "client", '{"type":"ping"}\n', ["ping", "malformed"]),
    ("an empty line between", "client", '{"type":"ping"}\n\n{"type":"pong"}', ["ping", "malformed", "pong"]),
    ("only a newline", "client", "\n", ["malformed", "malformed"]),
    ("carriage returns are white space", "client", '{"type":"ping"}\r\n{"type":"pong"}\r', ["ping", "pong"]),
    ("a bad line does not spoil the others", "client", '{"type":"ping"}\n{"type":"dance"}\n{"type":"pong"}', ["ping", "unknown_type", "pong"]),
    ("a forged line inside data is a line of its own, and its host is broken", "client", M + '[\n{"type":"pong","id":9}\n]}', ["malformed", "pong", "malformed"]),
    ("a newline inside a string of data", "client", M + '"a\nb"}', ["malformed", "malformed"]),
    ("brackets around a newline inside a string", "client", M + '"}\n{"}', ["malformed", "malformed"]),
    ("brackets around a newline inside data", "client", M + '[{}\n{"type":"pong"}\n{}]}', ["malformed", "pong", "malformed"]),
    ("one message over two lines", "client", '{"type":\n"ping"}', ["malformed", "malformed"]),
    ("binary text among others", "client", '{"type":"ping"}\n{"type":"ephemeral","to":"b","binary":true}', ["ping", "malformed"]),
    ("a server's batch", "server", '{"type":"wait","to":"b","run":1,"seq":1}\n{"type":"peer","client_id":"b","state":"here","run":2,"generation":1,"attachment":1}', ["wait", "peer"]),
    ("what a peer may and may not", "peer", '{"type":"ping"}\n{"type":"welcome"}\n{"type":"pong"}', ["ping", "unknown_type", "pong"]),
    ("invalid UTF-8 spoils the whole payload", "client", ['{"type":"ping"}\n', {"base64": "/w=="}], ["malformed"]),
    ("1,024 lines", "client", [['{"type":"ping"}\n', 1023], '{"type":"ping"}'], ["ping"] * 1024),
]  # fmt: skip

B = '{"type":"message","to":"b","run":1,"seq":1,"base":1,"binary":true}\n'
BINARY: list[tuple[str, str, Any, str]] = [
    ("bytes of every kind", "client", [B, {"base64": base64.b64encode(bytes(range(256))).decode()}], "message"),
    ("no bytes", "client", B, "message"),
    ("newlines are bytes like others", "client", [B, "\n\n"], "message"),
    ("what looks like a message is bytes", "client", [B, '{"type":"ping"}\n{"type":"ping"}'], "message"),
    ("invalid UTF-8 is bytes like others", "client", [B, {"base64": "//79"}], "message"),
    ("ephemeral", "client", '{"type":"ephemeral","to":"b","binary":true}\nx', "ephemeral"),
    ("publish", "client", '{"type":"publish","id":1,"channel":"c","binary":true}\nx', "publish"),
    ("publication", "server", '{"type":"publication","channel":"c","offset":1,"binary":true}\nx', "publication"),
    ("set", "client", '{"type":"set","id":1,"channel":"c","name":"a","binary":true}\nx', "set"),
    (
        "publication of a snapshot", "server",
        '{"type":"publication","channel":"c","offset":1,"name":"a","state":true,"binary":true}\nx', "publication",
    ),
    ("on a data channel", "peer", '{"type":"message","run":1,"seq":1,"base":1,"binary":true}\nx', "message"),
    ("exactly 65,536 bytes", "client", [B, ["x", 65536 - len(B)]], "message"),
    ("one byte too large", "client", [B, ["x", 65537 - len(B)]], "too_large"),
    ("no newline", "client", B[:-1], "malformed"),
    ("nothing", "client", "", "malformed"),
    ("only a newline", "client", "\n", "malformed"),
    ("binary:false", "client", B.replace("true", "false") + "x", "malformed"),
    ("no `binary`", "client", '{"type":"message","to":"b","run":1,"seq":1,"base":1}\nx', "malformed"),
    ("`data` in the header", "client", B.replace("}", ',"data":1}') + "x", "malformed"),
    ("a type that has no bytes", "client", '{"type":"ping","binary":true}\nx', "malformed"),
    ("signals are never binary", "client", '{"type":"signal","to":"b","data":1,"binary":true}\nx', "malformed"),
    ("unknown type", "client", '{"type":"dance","binary":true}\nx', "unknown_type"),
    ("a client's publication", "client", '{"type":"publication","channel":"c","offset":1,"binary":true}\nx', "unknown_type"),
    ("a header that is not UTF-8", "client", ['{"type":"message","x":"', {"base64": "/w=="}, '"}\nx'], "malformed"),
    ("a header 65 deep", "client", ['{"type":"message","x":', ["[", 64], ["]", 64], "}\nx"], "malformed"),
    ("a header that is no JSON", "client", "message\nx", "malformed"),
]  # fmt: skip


def cases() -> list[tuple[Case, list[str] | None]]:
    """The cases, each with the type or error code of what must come out (None: only recorded)."""
    found: list[tuple[Case, list[str] | None]] = []
    for end, good in GOOD.items():
        found += [({"name": name, "from": end, "payload": text}, None) for name, text in good]
    found += [({"name": name, "from": "client", "payload": text}, ["ping"]) for name, text in LAX]
    found += [({"name": name, "from": end, "payload": p}, [code]) for name, end, p, code in BAD]
    found += [({"name": name, "from": end, "payload": p}, None) for name, end, p, _ in GOOD_SIZES]
    found += [({"name": name, "from": end, "payload": p}, kinds) for name, end, p, kinds in MANY]
    found += [
        ({"name": f"binary: {name}", "from": end, "binary": True, "payload": p}, [kind])
        for name, end, p, kind in BINARY
    ]
    return found
