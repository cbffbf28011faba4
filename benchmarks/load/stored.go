package main

import (
	"fmt"
	"math"
)

const (
	settling  = 500_000_000   // ns of saturation before the capacity is measured
	saturated = 1_000_000_000 // ns during which it is
	beat      = 20_000_000    // ns between two messages of one sender, if the first is stored by then
)

// underLoad is what stored measures.
type underLoad struct {
	result
	Capacity float64 `json:"capacity"`         // deliveries per second with pairs that send as fast as they can
	Paced    float64 `json:"pairs_per_second"` // deliveries per second while the others stored
	Load     float64 `json:"server_load"`      // the server's CPU time per second meanwhile
	Skipped  int     `json:"skipped"`          // bursts that a full window kept back
}

// stored measures how long a message to a client who is away takes to be stored, while pairs load the server to half
// of what they can make it do. That is measured first. The pairs then send bursts of the same size at even
// intervals, whether or not the server keeps up.
func stored(l *loop, o options, m *meter) underLoad {
	pairs := newMeter(o.pid, math.MaxInt, 0) // it counts only
	ends := newPairs(l, o, pairs)
	depositors := make([]*depositor, o.senders)
	for i := range depositors {
		d := newDepositor(l, o, fmt.Sprintf("sender-%d", i), fmt.Sprintf("away-%d", i))
		d.heard = func(seq, now int64) { m.count(d.times[seq&int64(len(d.times)-1)], now) }
		depositors[i] = d
	}
	var answer underLoad
	answer.Capacity = capacity(l, o, ends, pairs)
	quieten(l, ends)

	for i := 0; i < len(ends); i += 2 {
		asking, answering := ends[i], ends[i+1]
		asking.ended = nil         // what it has got it acknowledges with its next burst
		answering.ended = func() { // no more than the window allows: the rest waits for acknowledgements
			count := int(least(int64(len(answering.answers)), window-(answering.sent+1-answering.base)))
			answering.write(count, answering.answers)
			answering.answers = append(answering.answers[:0], answering.answers[count:]...)
		}
	}
	interval := int64(2 * 2 * float64(o.inFlight) / answer.Capacity * 1e9) // each burst is delivered, and answered
	began := clock()
	burst, turn, before, heard, last := began, 0, 0, 0, began
	for !m.done {
		now := clock()
		for ; burst <= now; burst += interval {
			e := ends[turn%len(ends)]
			turn += 2
			if e.sent+1-e.base > int64(window-o.inFlight) {
				answer.Skipped++
				continue
			}
			newest := e.answers
			if excess := len(newest) - o.inFlight; excess > 0 {
				newest = newest[excess:] // they stand for all before them
			}
			e.write(o.inFlight, newest)
			e.answers = e.answers[:0]
			l.flush(e.connection)
		}
		for i, d := range depositors {
			if d.stored == d.sent && now >= began+d.sent*beat+int64(i)*beat/int64(len(depositors)) {
				d.write(1)
				l.flush(d.connection)
			}
		}
		for _, e := range ends {
			if e.received-e.acked >= window/2 || clock()-e.ackSince >= ackDelay {
				acknowledge(l, e) // no message came in time that could carry it
			}
		}
		l.turn(0)
		if m.measuring && before == 0 {
			before = pairs.seen
		}
		if m.seen > heard {
			heard, last = m.seen, now
		} else if now > last+patience*1_000_000 {
			fail("nothing stored for %d s", patience/1000)
		}
	}
	answer.result = m.result()
	answer.CPU, answer.Generator = 0, 0 // most of it was for the pairs
	answer.Paced = float64(pairs.seen-before) / m.wall.Seconds()
	answer.Load = float64(m.cpu) / float64(m.wall)
	return answer
}

// capacity has every pair keep its messages in flight, and returns deliveries per second.
func capacity(l *loop, o options, ends []*linkEnd, pairs *meter) float64 {
	for i := 0; i < len(ends); i += 2 {
		ends[i].write(o.inFlight, nil)
		l.flush(ends[i].connection)
	}
	began, before := clock()+settling, 0
	for clock() < began+saturated {
		if before == 0 && clock() >= began {
			before = pairs.seen
		}
		run(l)
		acknowledge(l, ends...)
	}
	return float64(pairs.seen-before) / saturated * 1e9
}

// quieten ends the answering, and returns when everything is acknowledged.
func quieten(l *loop, ends []*linkEnd) {
	for _, e := range ends {
		e := e
		e.ended = func() { e.answers = e.answers[:0] }
	}
	for settled := false; !settled; {
		l.turn(5)
		acknowledge(l, ends...)
		settled = true
		for _, e := range ends {
			settled = settled && e.base == e.sent+1
		}
	}
}

// acknowledge says what each end has received, if that is due.
func acknowledge(l *loop, ends ...*linkEnd) {
	for _, e := range ends {
		e.acknowledge()
		l.flush(e.connection)
	}
}
