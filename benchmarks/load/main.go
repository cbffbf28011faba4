// Command load drives a server and measures what it costs: CPU time per message, latency, memory per connection.
// It checks every message it gets (number, content, sender) and fails at the first hole, repeat or error. It prints
// one JSON object.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

type options struct {
	address, mode, protocol                                                   string
	pid, pairs, inFlight, subscribers, connections, senders, warmup, messages int
	separately                                                                bool
}

const patience = 10_000 // ms of silence after which a run has failed

// run is one turn of the loop that must bring something.
func run(l *loop) {
	if !l.turn(patience) {
		fail("silence for %d s", patience/1000)
	}
}

func main() {
	var o options
	flag.StringVar(&o.address, "address", "127.0.0.1:8080", "the server")
	flag.StringVar(&o.mode, "mode", "pair", "pair, fanout or idle; duolink only: durable, stored, drain or relay")
	flag.StringVar(&o.protocol, "protocol", "duolink", "duolink, or raw for a relay without a protocol")
	flag.IntVar(&o.pid, "pid", 0, "the server's process")
	flag.IntVar(&o.pairs, "pairs", 1, "pairs of clients (pair, stored)")
	flag.IntVar(&o.inFlight, "in-flight", 1, "messages in flight per pair (pair, stored, relay)")
	flag.BoolVar(&o.separately, "separately", false, "one frame per message where duolink's clients join several (pair)")
	flag.IntVar(&o.subscribers, "subscribers", 1000, "receivers of each message (fanout)")
	flag.IntVar(&o.senders, "senders", 100, "senders to absent receivers (durable, stored)")
	flag.IntVar(&o.connections, "connections", 1000, "connections (idle)")
	flag.IntVar(&o.warmup, "warmup", 20_000, "deliveries before the measurement")
	flag.IntVar(&o.messages, "messages", 100_000, "deliveries to measure")
	flag.Parse()

	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // a run allocates a few MB and ends
	l, m := newLoop(), newMeter(o.pid, o.warmup, o.messages)
	var answer any
	switch o.mode + " " + o.protocol {
	case "pair raw":
		rawPairs(l, o, m)
	case "pair duolink":
		duolinkPairs(l, o, m)
	case "fanout raw":
		rawFanout(l, o, m)
	case "fanout duolink":
		duolinkFanout(l, o, m)
	case "durable duolink":
		durable(l, o, m)
	case "stored duolink":
		answer = stored(l, o, m)
	case "drain duolink":
		answer = drain(l, o)
	case "relay duolink":
		relay(l, o, m)
	case "idle raw", "idle duolink":
		answer = idle(l, o)
	default:
		fail("no mode %s for protocol %s", o.mode, o.protocol)
	}
	if answer == nil {
		answer = m.result()
	}
	check(json.NewEncoder(os.Stdout).Encode(answer), "output")
}

type memory struct {
	Connections int     `json:"connections"`
	KiB         float64 `json:"kib"` // resident memory per connection
}

// idle opens connections, with a session where there is a protocol, and says what each costs in memory.
// A tenth of them come first: what the server allocates once for all is not the price of a connection.
func idle(l *loop, o options) memory {
	open := func(from, to int) {
		for i := from; i < to; i++ {
			if o.protocol == "duolink" {
				s := newSession(l, o, fmt.Sprintf("idle-%d", i))
				for !s.welcomed {
					run(l)
				}
			} else {
				l.connect(o.address, "/room")
			}
		}
	}
	first := o.connections / 10
	open(0, first)
	before := residentSize(o.pid)
	open(first, first+o.connections)
	return memory{o.connections, float64(residentSize(o.pid)-before) / 1024 / float64(o.connections)}
}
