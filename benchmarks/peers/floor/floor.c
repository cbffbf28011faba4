// The floor: a WebSocket relay with nothing in it. One thread, epoll, no policy, no protocol.
//
//   floor PORT          listens on 127.0.0.1:PORT
//   GET /pair?id=N      the frames of each of the two connections of a pair go to the other one
//   GET /room           a frame goes to every other connection of the room
//
// All complete frames of one read leave in one send. It answers close with a cut and ignores pings,
// trusts its clients, and refuses messages above READ_SIZE: what is left is what the kernel and
// RFC 6455 framing cost, and no server that does more can be cheaper.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_SIZE = 65536, MAX_FDS = 65536, MAX_EVENTS = 256, MAX_HEAD = 4096 };

typedef struct connection {
  int fd;
  int open;    // the handshake is done
  int paired;  // fd of the other end of a pair, or -1
  int room;
  long pair;            // id of the pair, or -1
  size_t size;          // bytes kept in `kept`
  char *kept;           // a partial frame or request head
  size_t backlog_size;  // bytes in `backlog`
  char *backlog;        // what the kernel did not take
} connection;

static connection *connections[MAX_FDS];
static int waiting[MAX_FDS];  // pair id → fd of the end that came first, plus one
static int room[MAX_FDS], room_size;
static int poller;
static char input[2 * READ_SIZE], output[2 * READ_SIZE];

static void die(const char *what) {
  perror(what);
  exit(1);
}

// --- handshake -----------------------------------------------------------------------------

static uint32_t rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

// SHA-1 (RFC 3174) of a short text: at most 119 bytes, that is two blocks.
static void sha1(const char *text, size_t size, uint8_t digest[20]) {
  uint8_t blocks[128] = {0};
  uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
  size_t total = size < 56 ? 64 : 128;
  memcpy(blocks, text, size);
  blocks[size] = 0x80;
  blocks[total - 1] = (uint8_t)(size * 8);
  blocks[total - 2] = (uint8_t)(size * 8 >> 8);
  for (size_t block = 0; block < total; block += 64) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++) {
      const uint8_t *p = blocks + block + 4 * i;
      w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
      uint32_t f, k;
      if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
      else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
      else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
      else f = b ^ c ^ d, k = 0xCA62C1D6;
      uint32_t next = rotate(a, 5) + f + e + k + w[i];
      e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
  }
  for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const uint8_t digest[20], char text[29]) {
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint8_t padded[21] = {0};
  memcpy(padded, digest, 20);
  for (int i = 0; i < 7; i++) {
    uint32_t group = (uint32_t)padded[3 * i] << 16 | (uint32_t)padded[3 * i + 1] << 8 | padded[3 * i + 2];
    for (int j = 0; j < 4; j++) text[4 * i + j] = alphabet[group >> (18 - 6 * j) & 63];
  }
  text[27] = '=';
  text[28] = 0;
}

// Accepts the request head in `head`; returns 0 when it is none of ours.
static int accept_head(connection *c, const char *head) {
  const char *key = strcasestr(head, "\r\nsec-websocket-key:");
  if (!key) return 0;
  key += strlen("\r\nsec-websocket-key:");
  while (*key == ' ') key++;
  char text[96], accepted[29], answer[256];
  uint8_t digest[20];
  int size = snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
  sha1(text, (size_t)size, digest);
  base64(digest, accepted);
  size = snprintf(answer, sizeof answer,
                  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  "Sec-WebSocket-Accept: %s\r\n\r\n",
                  accepted);
  if (!strncmp(head, "GET /pair?id=", 13)) {
    c->pair = atol(head + 13);
    if (c->pair < 0 || c->pair >= MAX_FDS) return 0;
    int other = waiting[c->pair] - 1;
    if (other >= 0) {
      c->paired = other;
      connections[other]->paired = c->fd;
      waiting[c->pair] = 0;
    } else {
      waiting[c->pair] = c->fd + 1;
    }
  } else if (!strncmp(head, "GET /room", 9)) {
    c->room = 1;
    room[room_size++] = c->fd;
  } else {
    return 0;
  }
  c->open = 1;
  return send(c->fd, answer, (size_t)size, MSG_NOSIGNAL) == size;
}

// --- sending -------------------------------------------------------------------------------

static void watch(connection *c, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = c->fd};
  epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void transmit(connection *c, const char *data, size_t size) {
  ssize_t sent = 0;
  if (!c->backlog_size) {
    sent = send(c->fd, data, size, MSG_NOSIGNAL);
    if (sent == (ssize_t)size) return;
    if (sent < 0) {
      if (errno != EAGAIN) return;  // the read side will see the end
      sent = 0;
    }
    watch(c, EPOLLIN | EPOLLOUT);
  }
  size -= (size_t)sent;
  c->backlog = realloc(c->backlog, c->backlog_size + size);
  if (!c->backlog) die("realloc");
  memcpy(c->backlog + c->backlog_size, data + sent, size);
  c->backlog_size += size;
}

static void drain(connection *c) {
  ssize_t sent = send(c->fd, c->backlog, c->backlog_size, MSG_NOSIGNAL);
  if (sent <= 0) return;
  c->backlog_size -= (size_t)sent;
  memmove(c->backlog, c->backlog + sent, c->backlog_size);
  if (!c->backlog_size) watch(c, EPOLLIN);
}

static void forward(connection *from, const char *frames, size_t size) {
  if (from->room) {
    for (int i = 0; i < room_size; i++)
      if (room[i] != from->fd) transmit(connections[room[i]], frames, size);
  } else if (from->paired >= 0) {
    transmit(connections[from->paired], frames, size);
  }
}

static void end(connection *c) {
  if (c->paired >= 0) connections[c->paired]->paired = -1;
  if (c->pair >= 0 && waiting[c->pair] == c->fd + 1) waiting[c->pair] = 0;
  if (c->room)
    for (int i = 0; i < room_size; i++)
      if (room[i] == c->fd) room[i--] = room[--room_size];
  connections[c->fd] = NULL;
  close(c->fd);
  free(c->kept);
  free(c->backlog);
  free(c);
}

// --- receiving -----------------------------------------------------------------------------

// Turns the complete frames of `data` into unmasked ones and forwards them in one write.
// Returns the number of bytes used, or -1 to end the connection.
static ssize_t relay(connection *c, char *data, size_t size) {
  size_t used = 0, made = 0;
  while (size - used >= 6) {
    const uint8_t *p = (const uint8_t *)data + used;
    uint8_t opcode = p[0] & 15;
    size_t head = 6, length = p[1] & 127;
    if (!(p[1] & 128) || opcode == 8) return -1;
    if (length == 126) {
      if (size - used < 8) break;
      length = (size_t)p[2] << 8 | p[3];
      head = 8;
    } else if (length == 127) {
      return -1;
    }
    if (size - used < head + length) break;
    if (opcode < 8) {
      output[made++] = (char)p[0];
      if (length < 126) {
        output[made++] = (char)length;
      } else {
        output[made++] = 126;
        output[made++] = (char)p[2];
        output[made++] = (char)p[3];
      }
      uint64_t mask;
      memcpy(&mask, p + head - 4, 4);
      memcpy((char *)&mask + 4, p + head - 4, 4);
      for (size_t i = 0; i < length; i += 8) {  // may run 7 bytes past the payload: both buffers have room
        uint64_t word;
        memcpy(&word, p + head + i, 8);
        word ^= mask;
        memcpy(output + made + i, &word, 8);
      }
      made += length;
    }
    used += head + length;
  }
  if (made) forward(c, output, made);
  return (ssize_t)used;
}

static void readable(connection *c) {
  if (c->size) memcpy(input, c->kept, c->size);
  ssize_t got = recv(c->fd, input + c->size, READ_SIZE, 0);
  if (got <= 0) {
    if (got == 0 || errno != EAGAIN) end(c);
    return;
  }
  size_t size = c->size + (size_t)got;
  char *data = input;
  if (!c->open) {
    input[size] = 0;
    char *stop = strstr(input, "\r\n\r\n");
    if (stop) {
      stop[2] = 0;
      if (!accept_head(c, input)) {
        end(c);
        return;
      }
      data = stop + 4;
      size -= (size_t)(data - input);
    } else if (size > MAX_HEAD) {
      end(c);
      return;
    }
  }
  if (c->open) {
    ssize_t used = relay(c, data, size);
    if (used < 0) {
      end(c);
      return;
    }
    data += used;
    size -= (size_t)used;
  }
  if (size > READ_SIZE) {
    end(c);
    return;
  }
  c->size = size;
  if (size) {
    c->kept = realloc(c->kept, size);
    if (!c->kept) die("realloc");
    memcpy(c->kept, data, size);
  }
}

static void accept_all(int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
    if (fd < 0) return;
    connection *c = fd < MAX_FDS ? calloc(1, sizeof *c) : NULL;
    if (!c) {
      close(fd);
      continue;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->fd = fd;
    c->paired = -1;
    c->pair = -1;
    connections[fd] = c;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
  }
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: floor PORT\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) die("listen");
  poller = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[MAX_EVENTS];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int count = epoll_wait(poller, events, MAX_EVENTS, -1);
    for (int i = 0; i < count; i++) {
      if (events[i].data.fd == listener) {
        accept_all(listener);
        continue;
      }
      connection *c = connections[events[i].data.fd];
      if (c && events[i].events & EPOLLOUT) drain(c);
      if (c && events[i].events & ~(uint32_t)EPOLLOUT) readable(c);
    }
  }
}
