package main

import "fmt"

const (
	window = 256 // numbers that may be neither stored nor settled
	boxes  = 3   // mailboxes that are filled and drained, one after the other
)

// A depositor sends to one client and hears what becomes of it: stored, if that client is away, or acknowledged.
type depositor struct {
	*session
	to           string
	heard        func(seq, now int64) // each number once it is stored
	sent, stored int64
	base         int64
	times        [1024]int64 // when message number i was sent, at i modulo the length
	scratch      []byte
}

func newDepositor(l *loop, o options, id, to string) *depositor {
	d := &depositor{session: newSession(l, o, id), to: to, base: 1, heard: func(int64, int64) {}}
	d.message = d.take
	for !d.welcomed {
		run(l)
	}
	if !d.durable {
		fail("the server says that it keeps nothing")
	}
	return d
}

func (d *depositor) take(kind []byte, members []field) {
	about, seq := number(member(members, "run")), number(member(members, "seq"))
	if about != d.run || seq > d.sent {
		fail("%s: %s of number %d, run %d; sent %d, run %d", d.id, kind, seq, about, d.sent, d.run)
	}
	switch string(kind) {
	case "stored":
		if to := member(members, "to"); string(to) != d.to {
			fail("%s: stored for %q", d.id, to)
		}
		for now := clock(); d.stored < seq; {
			d.stored++
			d.heard(d.stored, now)
		}
	case "ack":
		if from := member(members, "from"); string(from) != d.to || member(members, "lost") != nil {
			fail("%s: lost, or acknowledged by %q", d.id, from)
		}
		if seq >= d.base {
			d.base = seq + 1
		}
	default:
		fail("%s: unexpected %s", d.id, kind)
	}
}

func (d *depositor) write(count int64) {
	now, out := clock(), d.scratch[:0]
	for ; count > 0; count-- {
		d.sent++
		d.times[d.sent&int64(len(d.times)-1)] = now
		out = appendMessage(out, d.to, d.run, d.sent, d.base)
		out = appendData(out, d.sent)
	}
	if len(out) > 0 {
		d.send(out)
	}
	d.scratch = out
}

// A receiver takes what one depositor has sent, from number 1 on, and acknowledges every 32.
type receiver struct {
	*session
	from            *depositor
	taken           func(seq, now int64)
	received, acked int64
}

func newReceiver(l *loop, o options, id string) *receiver {
	r := &receiver{session: newSession(l, o, id), taken: func(int64, int64) {}}
	r.message = r.take
	return r
}

func (r *receiver) take(kind []byte, members []field) {
	from, about, seq := member(members, "from"), number(member(members, "run")), number(member(members, "seq"))
	if string(from) != r.from.id || about != r.from.run {
		fail("%s: %s from %q, run %d", r.id, kind, from, about)
	}
	switch string(kind) {
	case "message":
		if data := member(members, "data"); seq != r.received+1 || len(data) != payloadSize-2 ||
			number(data[:16]) != seq {
			fail("%s: expected message %d, got %d with %q", r.id, r.received+1, seq, data)
		}
		r.received++
		r.taken(seq, clock())
		if r.received-r.acked >= ackEvery {
			r.acknowledge()
		}
	case "probe":
		r.acknowledge()
	default:
		fail("%s: unexpected %s", r.id, kind)
	}
}

func (r *receiver) acknowledge() {
	r.acked = r.received
	r.send([]byte(fmt.Sprintf(`{"type":"ack","to":%q,"run":%d,"seq":%d}`, r.from.id, r.from.run, r.acked)))
}

// durable has senders write to clients who are away, each with its window always full.
func durable(l *loop, o options, m *meter) {
	depositors := make([]*depositor, o.senders)
	for i := range depositors {
		d := newDepositor(l, o, fmt.Sprintf("sender-%d", i), fmt.Sprintf("away-%d", i))
		d.heard = func(seq, now int64) { m.count(d.times[seq&int64(len(d.times)-1)], now) }
		d.ended = func() {
			if !m.done {
				d.write(window - (d.sent - d.stored))
			}
		}
		depositors[i] = d
	}
	for _, d := range depositors {
		d.write(window)
		l.flush(d.connection)
	}
	for !m.done {
		run(l)
	}
}

// drain fills a mailbox, and measures from the receiver's hello until it has everything.
func drain(l *loop, o options) result {
	messages := int64(o.messages / boxes)
	var wall, cpu int64
	for i := 0; i < boxes; i++ {
		id := fmt.Sprintf("bob-%d", i)
		d := newDepositor(l, o, fmt.Sprintf("alice-%d", i), id)
		d.ended = func() { d.write(least(window-(d.sent-d.stored), messages-d.sent)) }
		d.write(least(window, messages))
		l.flush(d.connection)
		for d.stored < messages {
			run(l)
		}
		before, began := cpuTime(o.pid), clock()
		r := newReceiver(l, o, id)
		r.from = d
		for r.received < messages {
			run(l)
		}
		wall += clock() - began
		cpu += cpuTime(o.pid) - before
		r.acknowledge()
		l.flush(r.connection)
		for d.base <= messages { // its sender hears that everything was delivered
			run(l)
		}
	}
	total := float64(messages * boxes)
	return result{Messages: int(total), CPU: float64(cpu) / 1e3 / total, Rate: total / float64(wall) * 1e9}
}

// relay sends the same messages between two clients who are both here.
func relay(l *loop, o options, m *meter) {
	r := newReceiver(l, o, "bob")
	for !r.welcomed {
		run(l)
	}
	d := newDepositor(l, o, "alice", "bob")
	r.from = d
	r.taken = func(seq, now int64) { m.count(d.times[seq&int64(len(d.times)-1)], now) }
	d.ended = func() {
		if !m.done {
			d.write(int64(o.inFlight) - (d.sent + 1 - d.base))
		}
	}
	d.write(int64(o.inFlight))
	l.flush(d.connection)
	for !m.done {
		run(l)
	}
}

func least(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}
