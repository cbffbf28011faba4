package main

import (
	"bytes"
	"fmt"
)

const payloadSize = 64

// payload makes message number `seq`: the number in 16 digits, then filling.
func payload(into []byte, seq int64) []byte {
	into = append(into, "0000000000000000........ sixty-four bytes of user data ........ "[:payloadSize]...)
	digits := into[len(into)-payloadSize:]
	for i := 15; seq > 0; i-- {
		digits[i] = byte('0' + seq%10)
		seq /= 10
	}
	return into
}

// A rawEnd is one end of a pair on a server without a protocol: a frame is the 64 bytes.
type rawEnd struct {
	*connection
	other    *rawEnd
	meter    *meter
	inFlight int
	sent     int64 // number of the last message sent
	received int64
	times    []int64 // when message number i was sent, at i modulo the length
	answers  int
	scratch  []byte
}

func (e *rawEnd) write(count int) {
	now := clock()
	for ; count > 0; count-- {
		e.sent++
		e.times[e.sent&int64(len(e.times)-1)] = now
		e.scratch = payload(e.scratch[:0], e.sent)
		e.send(e.scratch)
	}
}

// take accepts a frame of one message, or of several that the server has joined by newlines.
func (e *rawEnd) take(frame []byte) {
	now := clock()
	for _, message := range bytes.Split(frame, []byte{'\n'}) {
		e.received++
		if len(message) != payloadSize || number(message[:16]) != e.received {
			fail("expected message %d of %d bytes, got %q", e.received, payloadSize, message)
		}
		e.meter.count(e.other.times[e.received&int64(len(e.other.times)-1)], now)
		e.answers++
	}
}

func (e *rawEnd) answer() {
	if !e.meter.done {
		e.write(e.answers)
	}
	e.answers = 0
}

func rawPairs(l *loop, o options, m *meter) {
	ends := make([]*rawEnd, 0, 2*o.pairs)
	for i := 0; i < 2*o.pairs; i++ {
		e := &rawEnd{connection: l.connect(o.address, fmt.Sprintf("/pair?id=%d", i/2)), meter: m}
		e.times = make([]int64, 1024)
		e.frame, e.ended = e.take, e.answer
		if i%2 == 1 {
			e.other = ends[i-1]
			ends[i-1].other = e
		}
		ends = append(ends, e)
	}
	for i := 0; i < len(ends); i += 2 {
		ends[i].write(o.inFlight)
		l.flush(ends[i].connection)
	}
	for !m.done {
		run(l)
	}
}

// rawFanout sends one message into a room and the next one when everybody has it.
func rawFanout(l *loop, o options, m *meter) {
	publisher := l.connect(o.address, "/room")
	publisher.frame = func([]byte) { fail("the room sent a message back") }
	published, missing, sentAt := int64(0), 0, int64(0)
	for i := 0; i < o.subscribers; i++ {
		received, c := int64(0), l.connect(o.address, "/room")
		c.frame = func(frame []byte) {
			received++
			if len(frame) != payloadSize || number(frame[:16]) != received {
				fail("expected message %d, got %q", received, frame)
			}
			m.count(sentAt, clock())
			missing--
		}
	}
	// The room is complete when everybody has got a message: asking needs no protocol.
	for !m.done {
		if missing == 0 {
			missing = o.subscribers
			published++
			sentAt = clock()
			publisher.send(payload(nil, published))
			l.flush(publisher)
		}
		run(l)
	}
}
