package main

import (
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "load: "+format+"\n", values...)
	os.Exit(1)
}

func check(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

// A meter measures the server between the end of the warm-up and the last message of the run.
type meter struct {
	pid             int
	warmup, total   int // messages
	seen            int
	cpu             int64 // ns at the start, then the difference
	own             int64
	written         int64 // bytes, likewise
	started         time.Time
	wall            time.Duration
	latencies       []int64 // ns, one per measured message
	measuring, done bool
}

func newMeter(pid, warmup, messages int) *meter {
	return &meter{pid: pid, warmup: warmup, total: warmup + messages, latencies: make([]int64, 0, messages)}
}

// count takes note of one delivered message that was sent at `sent`.
func (m *meter) count(sent, now int64) {
	m.seen++
	if m.measuring {
		m.latencies = append(m.latencies, now-sent)
		if m.seen == m.total {
			m.cpu = cpuTime(m.pid) - m.cpu
			m.own = cpuTime(os.Getpid()) - m.own
			m.wall = time.Since(m.started)
			m.written = written(m.pid) - m.written
			m.measuring, m.done = false, true
		}
	} else if m.seen == m.warmup {
		m.measuring = true
		m.written = written(m.pid)
		m.started = time.Now()
		m.own = cpuTime(os.Getpid())
		m.cpu = cpuTime(m.pid)
	}
}

type result struct {
	Messages  int     `json:"messages"`
	CPU       float64 `json:"cpu_us"`           // server CPU per message
	Generator float64 `json:"generator_cpu_us"` // the generator's own
	Rate      float64 `json:"messages_per_second"`
	P50       float64 `json:"p50_us"`
	P95       float64 `json:"p95_us"`
	P99       float64 `json:"p99_us"`
	Written   int64   `json:"written_bytes"` // what the server wrote to a disk
}

func (m *meter) result() result {
	sort.Slice(m.latencies, func(i, j int) bool { return m.latencies[i] < m.latencies[j] })
	messages := float64(len(m.latencies))
	percentile := func(part float64) float64 {
		return float64(m.latencies[int(part*(messages-1))]) / 1e3
	}
	return result{
		Messages:  len(m.latencies),
		CPU:       float64(m.cpu) / 1e3 / messages,
		Generator: float64(m.own) / 1e3 / messages,
		Rate:      messages / m.wall.Seconds(),
		P50:       percentile(0.50),
		P95:       percentile(0.95),
		P99:       percentile(0.99),
		Written:   m.written,
	}
}

var zero = time.Now()

// clock is the monotonic time in ns.
func clock() int64 { return int64(time.Since(zero)) }

// cpuTime is the CPU time of a process in ns, all threads, dead ones included: the process clock of
// clock_getcpuclockid(3), which counts to the nanosecond where /proc counts ticks of 10 ms.
func cpuTime(pid int) int64 {
	var value syscall.Timespec
	const schedulerClock = 2
	identifier := uintptr(^pid<<3 | schedulerClock)
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, identifier, uintptr(unsafe.Pointer(&value)), 0)
	if errno != 0 {
		fail("CPU clock of process %d: %v", pid, errno)
	}
	return value.Nano()
}

// residentSize is the RSS of a process in bytes.
func residentSize(pid int) int64 {
	return entry(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:") * 1024
}

// written is how many bytes a process has caused to be written to a disk; sockets do not count.
func written(pid int) int64 {
	return entry(fmt.Sprintf("/proc/%d/io", pid), "write_bytes:")
}

// entry finds a number in a file of lines that begin with a name.
func entry(path, name string) int64 {
	text, err := os.ReadFile(path)
	check(err, path)
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == name {
			value, err := strconv.ParseInt(fields[1], 10, 64)
			check(err, name)
			return value
		}
	}
	fail("no %s in %s", name, path)
	return 0
}
