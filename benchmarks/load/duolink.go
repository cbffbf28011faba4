package main

import (
	"bytes"
	"fmt"
	"strconv"
)

const (
	ackEvery = 32         // messages after which an acknowledgement leaves at once
	ackDelay = 20_000_000 // ns that it may wait for a message to ride on
)

// A session is a duolink client: hello, welcome, and nothing it does not expect.
type session struct {
	*connection
	id       string
	run      int64
	welcomed bool
	durable  bool
	message  func(kind []byte, members []field)
	members  []field
}

func newSession(l *loop, o options, id string) *session {
	s := &session{connection: l.connect(o.address, "/ws"), id: id}
	s.frame = s.take
	s.send([]byte(fmt.Sprintf(`{"type":"hello","protocol":1,"client_id":%q}`, id)))
	l.flush(s.connection)
	return s
}

// take splits a frame into messages.
func (s *session) take(frame []byte) {
	for len(frame) > 0 {
		line := frame
		if end := bytes.IndexByte(frame, '\n'); end >= 0 {
			line, frame = frame[:end], frame[end+1:]
		} else {
			frame = nil
		}
		s.members = fields(line, s.members[:0])
		kind := member(s.members, "type")
		switch string(kind) {
		case "welcome":
			s.run, s.welcomed = number(member(s.members, "run")), true
			s.durable = string(member(s.members, "durable")) == "true"
		case "error", "goodbye", "skip", "unsubscribed":
			fail("%s: the server sent %s", s.id, line)
		case "ping":
			s.send([]byte(fmt.Sprintf(`{"type":"pong","id":%d}`, number(member(s.members, "id")))))
		case "peer", "join", "leave":
		default:
			if s.message == nil {
				fail("%s: unexpected %s", s.id, line)
			}
			s.message(kind, s.members)
		}
	}
}

func member(members []field, name string) []byte {
	for i := range members {
		if string(members[i].name) == name {
			return members[i].value
		}
	}
	return nil
}

// A linkEnd is one end of a link between two clients.
type linkEnd struct {
	*session
	other      *linkEnd
	meter      *meter
	separately bool // one frame per message instead of one per read
	sent, base int64
	peerRun    int64
	received   int64 // number of the last message received, and finished with at once
	acked      int64 // what the last acknowledgement said
	ackSince   int64 // when the oldest unacknowledged message arrived
	times      []int64
	answers    []int64 // numbers that want an answer
	scratch    []byte
	waiting    bool // the server has dropped what we sent, and will say from where to begin again
}

// take accepts one message of the link and everything it says about ours.
func (e *linkEnd) take(kind []byte, members []field) {
	var run, seq, base, ackRun, ack, arrived int64
	var from, to, data []byte
	want := false
	for _, f := range members {
		switch string(f.name) {
		case "run":
			run = number(f.value)
		case "seq":
			seq = number(f.value)
		case "base":
			base = number(f.value)
		case "ack_run":
			ackRun = number(f.value)
		case "ack":
			ack = number(f.value)
		case "from":
			from = f.value
		case "to":
			to = f.value
		case "received":
			arrived = number(f.value)
		case "want":
			want = string(f.value) == "true"
		case "data":
			data = f.value
		case "lost":
			fail("%s: the other end lost messages", e.id)
		}
	}
	if string(kind) == "wait" && string(to) == e.other.id && e.base == 1 {
		e.waiting = true // a durable server looks first what an earlier process of the other end may have had
		return
	}
	if string(from) != e.other.id {
		fail("%s: %s from %q, number %d; sent %d, base %d", e.id, kind, from, seq, e.sent, e.base)
	}
	if string(kind) == "ack" {
		ackRun, ack = run, seq
	} else if string(kind) == "message" {
		now := clock()
		if run != e.other.run || seq != e.received+1 || base < 1 || base > seq {
			fail("%s: expected number %d of run %d, got %d of %d", e.id, e.received+1, e.other.run, seq, run)
		}
		if len(data) != payloadSize-2 || number(data[:16]) != seq {
			fail("%s: message %d carries %q", e.id, seq, data)
		}
		if e.received == e.acked {
			e.ackSince = now
		}
		e.received, e.peerRun = seq, run
		e.meter.count(e.other.times[seq&int64(len(e.other.times)-1)], now)
		e.answers = append(e.answers, seq)
	} else {
		fail("%s: unexpected %s", e.id, kind)
	}
	if ackRun != 0 {
		if ackRun != e.run || ack > e.sent {
			fail("%s: acknowledged %d of run %d, sent %d of %d", e.id, ack, ackRun, e.sent, e.run)
		}
		if ack >= e.base {
			e.base = ack + 1
		}
	}
	if want {
		if !e.waiting || arrived != 0 || ack != 0 {
			fail("%s: asked to send again after %d", e.id, arrived)
		}
		count := int(e.sent)
		e.waiting, e.sent = false, 0
		e.acked = 0 // what acknowledgements the messages carried was dropped with them
		e.write(count, nil)
	}
}

// appendMessage begins a message: everything before what it acknowledges and its data.
func appendMessage(out []byte, to string, run, seq, base int64) []byte {
	if len(out) > 0 {
		out = append(out, '\n')
	}
	out = append(out, `{"type":"message","to":"`...)
	out = append(out, to...)
	out = append(out, `","run":`...)
	out = strconv.AppendInt(out, run, 10)
	out = append(out, `,"seq":`...)
	out = strconv.AppendInt(out, seq, 10)
	out = append(out, `,"base":`...)
	return strconv.AppendInt(out, base, 10)
}

// appendData ends a message: 64 bytes of user data, the quotes included.
func appendData(out []byte, seq int64) []byte {
	out = append(out, `,"data":"`...)
	out = payload(out, seq)
	return append(out[:len(out)-2], `"}`...)
}

// write sends `count` messages; number i acknowledges answers[i], the message that it answers.
func (e *linkEnd) write(count int, answers []int64) {
	now, out := clock(), e.scratch[:0]
	for i := 0; i < count; i++ {
		e.sent++
		e.times[e.sent&int64(len(e.times)-1)] = now
		out = appendMessage(out, e.other.id, e.run, e.sent, e.base)
		if i < len(answers) {
			e.acked = answers[i]
			out = append(out, `,"ack_run":`...)
			out = strconv.AppendInt(out, e.peerRun, 10)
			out = append(out, `,"ack":`...)
			out = strconv.AppendInt(out, e.acked, 10)
		}
		out = appendData(out, e.sent)
		if e.separately {
			e.send(out)
			out = out[:0]
		}
	}
	if len(out) > 0 {
		e.send(out)
	}
	e.scratch = out
}

// answer replies to each message of a read, or acknowledges what no reply will carry.
func (e *linkEnd) answer() {
	if !e.meter.done {
		e.write(len(e.answers), e.answers)
	}
	e.answers = e.answers[:0]
	e.acknowledge()
}

func (e *linkEnd) acknowledge() {
	if e.received-e.acked >= ackEvery || (e.received > e.acked && clock()-e.ackSince >= ackDelay) {
		e.acked = e.received
		e.send([]byte(fmt.Sprintf(`{"type":"ack","to":%q,"run":%d,"seq":%d}`, e.other.id, e.peerRun, e.acked)))
	}
}

// newPairs brings pairs online: ends 2i and 2i+1 belong together.
func newPairs(l *loop, o options, m *meter) []*linkEnd {
	ends := make([]*linkEnd, 0, 2*o.pairs)
	for i := 0; i < 2*o.pairs; i++ {
		e := &linkEnd{session: newSession(l, o, fmt.Sprintf("load-%d", i)), meter: m, separately: o.separately, base: 1}
		e.times = make([]int64, 1024)
		e.message, e.ended = e.take, e.answer
		if i%2 == 1 {
			e.other = ends[i-1]
			ends[i-1].other = e
		}
		ends = append(ends, e)
		for !e.welcomed {
			run(l)
		}
	}
	return ends
}

func duolinkPairs(l *loop, o options, m *meter) {
	ends := newPairs(l, o, m)
	for i := 0; i < len(ends); i += 2 {
		ends[i].write(o.inFlight, nil)
		l.flush(ends[i].connection)
	}
	settled := false
	for !m.done || !settled { // the run ends when every message is acknowledged
		if !l.turn(5) && !m.done {
			run(l)
		}
		settled = true
		for _, e := range ends {
			e.acknowledge()
			l.flush(e.connection)
			settled = settled && e.base == e.sent+1
		}
	}
}

// duolinkFanout publishes the next message when the last one is published and everybody has it.
func duolinkFanout(l *loop, o options, m *meter) {
	missing, sentAt, published, unanswered := 0, int64(0), int64(0), false
	sessions := make([]*session, 0, o.subscribers)
	subscribed := 0
	for i := 0; i < o.subscribers; i++ {
		s := newSession(l, o, fmt.Sprintf("load-%d", i))
		last := int64(-1)
		s.message = func(kind []byte, members []field) {
			switch string(kind) {
			case "subscribing":
			case "subscribed":
				last = number(member(members, "offset"))
				subscribed++
			case "publication":
				last++
				data := member(members, "data")
				offset := number(member(members, "offset"))
				if len(data) != payloadSize-2 || offset != last || number(data[:16]) != published {
					fail("%s: expected offset %d with message %d, got %q", s.id, last, published, data)
				}
				m.count(sentAt, clock())
				missing--
			default:
				fail("%s: unexpected %s", s.id, kind)
			}
		}
		for !s.welcomed {
			run(l)
		}
		s.send([]byte(`{"type":"subscribe","id":1,"channels":[{"channel":"load"}]}`))
		l.flush(s.connection)
		sessions = append(sessions, s)
	}
	for subscribed < o.subscribers {
		run(l)
	}
	publisher := newSession(l, o, "load-publisher")
	publisher.message = func(kind []byte, members []field) {
		if string(kind) != "published" || number(member(members, "id")) != published {
			fail("unexpected %s", kind)
		}
		unanswered = false
	}
	for !publisher.welcomed {
		run(l)
	}
	for !m.done {
		if missing == 0 && !unanswered {
			missing, unanswered = o.subscribers, true
			published++
			sentAt = clock()
			publisher.send([]byte(fmt.Sprintf(`{"type":"publish","id":%d,"channel":"load","data":"%s"}`,
				published, payload(nil, published)[:payloadSize-2])))
			l.flush(publisher.connection)
		}
		run(l)
	}
}
