// Command gorilla is the peer duolink is measured beside: a relay on gorilla/websocket that knows no protocol.
//
//	/pair?id=N  two connections with the same id are a pair; each frame of one is written to the other
//	/room       each frame is written to every other connection of the room, framed once
//
// There are three ways to write, by -write:
//
//	direct  the goroutine that read a frame writes it, under the receiver's lock: no buffer, no hand-over, so the
//	        cheapest. A slow receiver holds up its sender and, in a room, everybody.
//	pump    a goroutine per connection writes what a bounded channel hands it, one frame each: the library's
//	        "chat" example without its joining. A receiver whose channel is full is dropped.
//	join    the same, and frames that are waiting leave as one frame, joined by newlines: the "chat" example as
//	        it is. The receiver no longer sees the frames that were sent.
package main

import (
	"flag"
	"log"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// As in the library's chat example.
const (
	queueSize  = 256
	writeWait  = 10 * time.Second
	pongWait   = 60 * time.Second
	pingPeriod = pongWait * 9 / 10
)

const readLimit = 64 * 1024

// Sizes of 0 take over the HTTP server's buffers (4 KiB each): the least memory.
var upgrader = websocket.Upgrader{}

type outgoing struct {
	kind     int
	data     []byte
	prepared *websocket.PreparedMessage
}

type connection struct {
	socket *websocket.Conn
	lock   sync.Mutex    // guards writes to the socket when they are direct
	queue  chan outgoing // nil when writes are direct
}

func newConnection(socket *websocket.Conn, mode string) *connection {
	c := &connection{socket: socket}
	socket.SetReadLimit(readLimit)
	socket.SetReadDeadline(time.Now().Add(pongWait))
	socket.SetPongHandler(func(string) error { return socket.SetReadDeadline(time.Now().Add(pongWait)) })
	if mode == "direct" {
		time.AfterFunc(pingPeriod, c.ping)
	} else {
		c.queue = make(chan outgoing, queueSize)
		go c.pump(mode == "join")
	}
	return c
}

// ping asks for a sign of life, now and after each period, until the socket is closed.
func (c *connection) ping() {
	if c.socket.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeWait)) == nil {
		time.AfterFunc(pingPeriod, c.ping)
	}
}

// write sends one message, or cuts off a receiver that does not keep up.
func (c *connection) write(message outgoing) {
	if c.queue == nil {
		c.lock.Lock()
		err := c.writeNow(message)
		c.lock.Unlock()
		if err != nil {
			c.socket.Close()
		}
		return
	}
	select {
	case c.queue <- message:
	default:
		c.socket.Close()
	}
}

func (c *connection) writeNow(message outgoing) error {
	c.socket.SetWriteDeadline(time.Now().Add(writeWait))
	if message.prepared != nil {
		return c.socket.WritePreparedMessage(message.prepared)
	}
	return c.socket.WriteMessage(message.kind, message.data)
}

func (c *connection) pump(join bool) {
	ticker := time.NewTicker(pingPeriod)
	defer ticker.Stop()
	defer c.socket.Close() // ends the reader
	for {
		var err error
		select {
		case message := <-c.queue:
			if waiting := len(c.queue); join && waiting > 0 && message.prepared == nil {
				err = c.writeJoined(message, waiting)
			} else {
				err = c.writeNow(message)
			}
		case <-ticker.C:
			c.socket.SetWriteDeadline(time.Now().Add(writeWait))
			err = c.socket.WriteMessage(websocket.PingMessage, nil)
		}
		if err != nil {
			return
		}
	}
}

// writeJoined writes one frame: the message and those that wait behind it, joined by newlines.
func (c *connection) writeJoined(message outgoing, waiting int) error {
	c.socket.SetWriteDeadline(time.Now().Add(writeWait))
	writer, err := c.socket.NextWriter(message.kind)
	if err != nil {
		return err
	}
	writer.Write(message.data)
	for ; waiting > 0; waiting-- {
		writer.Write([]byte{'\n'})
		writer.Write((<-c.queue).data)
	}
	return writer.Close()
}

type relay struct {
	mode  string
	lock  sync.RWMutex
	pairs map[string]*pair
	room  map[*connection]struct{}
}

type pair struct {
	first, second *connection
	complete      chan struct{}
}

// join takes a seat and waits for the other end.
func (r *relay) join(id string, c *connection) *connection {
	r.lock.Lock()
	waiting, found := r.pairs[id]
	if found {
		delete(r.pairs, id)
		waiting.second = c
		close(waiting.complete)
		r.lock.Unlock()
		return waiting.first
	}
	own := &pair{first: c, complete: make(chan struct{})}
	r.pairs[id] = own
	r.lock.Unlock()
	<-own.complete
	return own.second
}

func (r *relay) servePair(w http.ResponseWriter, request *http.Request) {
	socket, err := upgrader.Upgrade(w, request, nil)
	if err != nil {
		return
	}
	defer socket.Close()
	c := newConnection(socket, r.mode)
	other := r.join(request.URL.Query().Get("id"), c)
	for {
		kind, data, err := socket.ReadMessage()
		if err != nil {
			other.socket.Close()
			return
		}
		other.write(outgoing{kind: kind, data: data})
	}
}

func (r *relay) serveRoom(w http.ResponseWriter, request *http.Request) {
	socket, err := upgrader.Upgrade(w, request, nil)
	if err != nil {
		return
	}
	defer socket.Close()
	c := newConnection(socket, r.mode)
	r.lock.Lock()
	r.room[c] = struct{}{}
	r.lock.Unlock()
	defer func() {
		r.lock.Lock()
		delete(r.room, c)
		r.lock.Unlock()
	}()
	for {
		kind, data, err := socket.ReadMessage()
		if err != nil {
			return
		}
		prepared, err := websocket.NewPreparedMessage(kind, data)
		if err != nil {
			return
		}
		r.lock.RLock()
		for other := range r.room {
			if other != c {
				other.write(outgoing{prepared: prepared})
			}
		}
		r.lock.RUnlock()
	}
}

func main() {
	address := flag.String("listen", "127.0.0.1:9001", "where to listen")
	mode := flag.String("write", "direct", "direct, pump or join")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	r := &relay{mode: *mode, pairs: map[string]*pair{}, room: map[*connection]struct{}{}}
	http.HandleFunc("/pair", r.servePair)
	http.HandleFunc("/room", r.serveRoom)
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, nil))
}
