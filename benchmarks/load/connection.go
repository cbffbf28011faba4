package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// A connection is one WebSocket client on a bare non-blocking socket. Everything runs on one thread:
// the generator must cost less than the server it measures.
type connection struct {
	fd      int
	input   []byte // received and not yet taken apart
	output  []byte // framed and not yet accepted by the kernel
	frame   func(payload []byte)
	ended   func() // all frames of one read have been handed out
	waiting bool   // the loop waits for the socket to become writable
}

const (
	readSize  = 64 * 1024
	opText    = 1
	opClose   = 8
	opPing    = 9
	opPong    = 10
	handshake = "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
	accepted = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // RFC 6455 section 1.3
)

// A loop waits for all connections and hands out what arrives.
type loop struct {
	poller      int
	connections map[int32]*connection
	events      []syscall.EpollEvent
	buffer      []byte
}

func newLoop() *loop {
	poller, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	check(err, "epoll_create1")
	return &loop{
		poller:      poller,
		connections: map[int32]*connection{},
		events:      make([]syscall.EpollEvent, 1024),
		buffer:      make([]byte, readSize),
	}
}

// connect opens a WebSocket and puts it under the loop's watch.
func (l *loop) connect(address, path string) *connection {
	endpoint, err := net.ResolveTCPAddr("tcp4", address)
	check(err, "address")
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(err, "socket")
	target := &syscall.SockaddrInet4{Port: endpoint.Port}
	copy(target.Addr[:], endpoint.IP.To4())
	check(syscall.Connect(fd, target), "connect")
	check(syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1), "TCP_NODELAY")
	_, err = syscall.Write(fd, []byte(fmt.Sprintf(handshake, path, address)))
	check(err, "handshake")
	head := make([]byte, 0, 4096)
	for !bytes.Contains(head, []byte("\r\n\r\n")) {
		count, err := syscall.Read(fd, head[len(head):cap(head)])
		check(err, "handshake")
		if count == 0 {
			fail("the server closed the connection in the handshake: %q", head)
		}
		head = head[:len(head)+count]
	}
	end := bytes.Index(head, []byte("\r\n\r\n")) + 4
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head[:end])), nil)
	check(err, "handshake")
	if response.StatusCode != 101 || response.Header.Get("Sec-WebSocket-Accept") != accepted ||
		!strings.EqualFold(response.Header.Get("Upgrade"), "websocket") {
		fail("the server refused the WebSocket: %q", head)
	}
	check(syscall.SetNonblock(fd, true), "nonblock")
	c := &connection{fd: fd}
	c.input = append(c.input, head[end:]...)
	l.connections[int32(fd)] = c
	l.control(syscall.EPOLL_CTL_ADD, c, syscall.EPOLLIN)
	return c
}

func (l *loop) control(operation int, c *connection, events uint32) {
	event := syscall.EpollEvent{Events: events, Fd: int32(c.fd)}
	check(syscall.EpollCtl(l.poller, operation, c.fd, &event), "epoll_ctl")
}

// turn waits up to `timeout` milliseconds and hands out what has arrived; it returns whether anything had.
func (l *loop) turn(timeout int) bool {
	count, err := syscall.EpollWait(l.poller, l.events, timeout)
	if err == syscall.EINTR {
		return true
	}
	check(err, "epoll_wait")
	for _, event := range l.events[:count] {
		c := l.connections[event.Fd]
		if event.Events&syscall.EPOLLOUT != 0 {
			l.flush(c)
		}
		if event.Events&^syscall.EPOLLOUT != 0 {
			l.read(c)
		}
	}
	return count > 0
}

func (l *loop) read(c *connection) {
	count, err := syscall.Read(c.fd, l.buffer)
	if err == syscall.EAGAIN {
		return
	}
	check(err, "read")
	if count == 0 {
		fail("the server closed a connection")
	}
	data := l.buffer[:count]
	if len(c.input) > 0 {
		c.input = append(c.input, data...)
		data = c.input
	}
	rest := l.take(c, data)
	c.input = append(c.input[:0], rest...)
	if c.ended != nil {
		c.ended()
	}
	l.flush(c)
}

// take hands out the complete frames of `data` and returns what is left.
func (l *loop) take(c *connection, data []byte) []byte {
	for len(data) >= 2 {
		length, head := int(data[1]&127), 2
		if data[1]&128 != 0 || data[0]&0x70 != 0 {
			fail("a masked frame or a reserved bit from the server")
		}
		switch length {
		case 126:
			if len(data) < 4 {
				return data
			}
			length, head = int(binary.BigEndian.Uint16(data[2:])), 4
		case 127:
			if len(data) < 10 {
				return data
			}
			length, head = int(binary.BigEndian.Uint64(data[2:])), 10
		}
		if len(data) < head+length {
			return data
		}
		payload := data[head : head+length]
		switch data[0] {
		case 0x80 | opText:
			c.frame(payload)
		case 0x80 | opPing:
			c.output = appendFrame(c.output, opPong, payload)
		case 0x80 | opPong:
		case 0x80 | opClose:
			fail("the server closed: %q", payload)
		default:
			fail("a frame that this generator does not expect: first byte %#x", data[0])
		}
		data = data[head+length:]
	}
	return data
}

// send queues one text frame; flush writes what is queued.
func (c *connection) send(payload []byte) { c.output = appendFrame(c.output, opText, payload) }

func (l *loop) flush(c *connection) {
	if len(c.output) == 0 {
		return
	}
	count, err := syscall.Write(c.fd, c.output)
	if err != nil && err != syscall.EAGAIN {
		check(err, "write")
	}
	if count > 0 {
		c.output = c.output[:copy(c.output, c.output[count:])]
	}
	if blocked := len(c.output) > 0; blocked != c.waiting {
		c.waiting = blocked
		events := uint32(syscall.EPOLLIN)
		if blocked {
			events |= syscall.EPOLLOUT
		}
		l.control(syscall.EPOLL_CTL_MOD, c, events)
	}
}

const mask = 0x5ac396e1 // any key will do: there is no browser or proxy to protect (RFC 6455 section 10.3)

// appendFrame frames a payload as a client must: masked.
func appendFrame(output []byte, opcode byte, payload []byte) []byte {
	output = append(output, 0x80|opcode)
	switch length := len(payload); {
	case length < 126:
		output = append(output, 0x80|byte(length))
	case length < 1<<16:
		output = append(output, 0x80|126, byte(length>>8), byte(length))
	default:
		output = append(output, 0x80|127)
		output = binary.BigEndian.AppendUint64(output, uint64(length))
	}
	output = binary.LittleEndian.AppendUint32(output, mask)
	for len(payload) >= 8 {
		word := binary.LittleEndian.Uint64(payload) ^ (mask<<32 | mask)
		output = binary.LittleEndian.AppendUint64(output, word)
		payload = payload[8:]
	}
	for i, value := range payload {
		output = append(output, value^byte(uint32(mask)>>(8*(i&3))))
	}
	return output
}
