/* A model server that costs nothing: OpenAI's streaming API on loopback, whose tokens say when they were sent.
 *
 *     model --port 9100 --tokens 200 --rate 50 --first-ms 0
 *
 * A token is " [<seq>@<ns>]": its number, from 0, and CLOCK_MONOTONIC at the moment it was written, which another process of the
 * same machine can subtract from its own. --rate is in tokens a second for each stream; 0 sends as fast as the reader reads.
 * Until --first-ms have passed it says nothing at all, like a model that still reads its prompt.
 *
 * GET /set?tokens=500&rate=50&first-ms=0 changes these for the streams to come. GET /stats tells how many streams were begun, finished
 * and left by their reader. GET /left tells which were left since it was last asked, and when: [[tag, ns], ...]. A stream's tag is the
 * number behind the first "#" in its question, or -1. One thread, epoll, a heap of what is due next.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_REQUEST (4 << 20)
#define TOKENS_AT_ONCE 64 /* at full speed, before another stream has its turn */

typedef struct {
    int fd, heap_at, seq, closed, tag;
    int64_t due;
    char *in, *out;
    size_t in_len, in_size, out_len, out_sent, out_size;
} stream;

static int tokens = 200, epoll_fd;
static int64_t gap_ns = 20000000, first_ns = 0;
static long begun, finished, left_early;
static char *left;
static size_t left_len, left_size;

static void set_rate(double rate) {
    gap_ns = rate ? 1e9 / rate : 0;
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* what is due next: a binary heap of streams by their `due` */

static stream **heap;
static int heap_len, heap_size;

static void heap_put(int i, stream *s) {
    heap[i] = s;
    s->heap_at = i;
}

static void heap_up(int i) {
    stream *s = heap[i];
    for (int above; i && heap[above = (i - 1) / 2]->due > s->due; i = above) heap_put(i, heap[above]);
    heap_put(i, s);
}

static void heap_down(int i) {
    stream *s = heap[i];
    for (int below; (below = 2 * i + 1) < heap_len; i = below) {
        if (below + 1 < heap_len && heap[below + 1]->due < heap[below]->due) below++;
        if (heap[below]->due >= s->due) break;
        heap_put(i, heap[below]);
    }
    heap_put(i, s);
}

static void schedule(stream *s, int64_t due) {
    s->due = due;
    if (s->heap_at >= 0) {
        heap_down(s->heap_at);
        heap_up(s->heap_at);
        return;
    }
    if (heap_len == heap_size) heap = realloc(heap, (heap_size = heap_size ? 2 * heap_size : 256) * sizeof *heap);
    heap_put(heap_len++, s);
    heap_up(s->heap_at);
}

static void unschedule(stream *s) {
    int i = s->heap_at;
    if (i < 0) return;
    s->heap_at = -1;
    stream *last = heap[--heap_len];
    if (last == s) return;
    heap_put(i, last);
    heap_down(i);
    heap_up(last->heap_at);
}

/* writing */

static void watch(stream *s, int writable) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (writable ? EPOLLOUT : 0), .data.ptr = s};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, s->fd, &e);
}

static void note_left(stream *s) {
    if (left_len + 64 > left_size) left = realloc(left, left_size = left_size ? 2 * left_size : 4096);
    left_len += sprintf(left + left_len, "%s[%d,%lld]", left_len ? "," : "", s->tag, (long long)now());
    left_early++;
}

static void leave(stream *s) {
    if (s->closed) return;
    if (s->seq >= 0) note_left(s);
    unschedule(s);
    close(s->fd);
    s->closed = 1; /* freed by the loop, when no event of this round can name it any more */
}

static void add(stream *s, const char *data, size_t n) {
    if (s->out_len + n > s->out_size) s->out = realloc(s->out, s->out_size = 2 * (s->out_len + n));
    memcpy(s->out + s->out_len, data, n);
    s->out_len += n;
}

static void add_chunk(stream *s, const char *data, int n) {
    char head[16];
    add(s, head, sprintf(head, "%x\r\n", n));
    add(s, data, n);
    add(s, "\r\n", 2);
}

/* Return 1 when all is sent, 0 when the reader must read first; a stream whose reader is gone is left. */
static int flush(stream *s) {
    while (s->out_sent < s->out_len) {
        ssize_t n = send(s->fd, s->out + s->out_sent, s->out_len - s->out_sent, MSG_NOSIGNAL);
        if (n > 0) {
            s->out_sent += n;
        } else if (errno == EAGAIN) {
            unschedule(s);
            watch(s, 1);
            return 0;
        } else {
            leave(s);
            return 0;
        }
    }
    s->out_sent = s->out_len = 0;
    return 1;
}

static const char CHUNK[] = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"bench\",\"choices\":";

static void add_token(stream *s) {
    char data[512];
    add_chunk(s, data, sprintf(data, "%s[{\"index\":0,\"delta\":{\"content\":\" [%d@%lld]\"},\"finish_reason\":null}]}\n\n", CHUNK,
                               s->seq++, (long long)now()));
}

static void add_end(stream *s) {
    char data[1024];
    add_chunk(s, data, sprintf(data, "%s[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", CHUNK));
    add_chunk(s, data, sprintf(data, "%s[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\ndata: [DONE]\n\n",
                               CHUNK, tokens, tokens + 10));
    add(s, "0\r\n\r\n", 5);
}

static void answer(stream *s);

/* Write what is due, and note when the next token is. */
static void step(stream *s) {
    int at_once = gap_ns ? 1 : TOKENS_AT_ONCE;
    while (s->seq < tokens && at_once--) add_token(s);
    int last = s->seq == tokens;
    if (last) {
        add_end(s);
        s->seq = -1;
        finished++;
        unschedule(s);
    } else {
        int64_t late = now() - s->due > gap_ns ? now() : s->due; /* a reader that was slow gets no burst afterwards */
        schedule(s, gap_ns ? late + gap_ns : s->due + 1);
    }
    if (flush(s) && last) answer(s);
}

/* requests */

static void reply(stream *s, const char *status, const char *json) {
    char head[256];
    add(s, head, sprintf(head, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status, strlen(json)));
    add(s, json, strlen(json));
    flush(s);
}

static void tell_left(stream *s) {
    char *json;
    if (asprintf(&json, "[%.*s]", (int)left_len, left ? left : "") < 0) exit(1);
    reply(s, "200 OK", json);
    free(json);
    left_len = 0;
}

static void route(stream *s, const char *head, const char *body) {
    char json[200];
    double rate, first_ms;
    if (sscanf(head, "GET /set?tokens=%d&rate=%lf&first-ms=%lf ", &tokens, &rate, &first_ms) == 3) {
        set_rate(rate);
        first_ns = first_ms * 1e6;
        reply(s, "200 OK", "{}");
    } else if (strstr(head, "/chat/completions ")) {
        static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        add(s, HEAD, sizeof HEAD - 1);
        const char *tag = strchr(body, '#');
        s->tag = tag ? atoi(tag + 1) : -1;
        s->seq = 0;
        begun++;
        schedule(s, now() + first_ns);
        if (!first_ns) step(s);
    } else if (strstr(head, "/models ")) {
        reply(s, "200 OK", "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1,\"owned_by\":\"bench\"}]}");
    } else if (strstr(head, "/stats ")) {
        sprintf(json, "{\"begun\":%ld,\"finished\":%ld,\"left_early\":%ld}", begun, finished, left_early);
        reply(s, "200 OK", json);
    } else if (strstr(head, "/left ")) {
        tell_left(s);
    } else {
        reply(s, "404 Not Found", "{\"error\":{\"message\":\"not found\"}}");
    }
}

/* Answer the next whole request that is in the buffer. */
static void answer(stream *s) {
    if (s->closed || s->seq >= 0 || !s->in_len) return;
    s->in[s->in_len] = 0;
    char *end = strstr(s->in, "\r\n\r\n");
    if (!end) return;
    char *length = strcasestr(s->in, "\r\ncontent-length:");
    size_t whole = end + 4 - s->in + (length && length < end ? strtoul(length + 17, 0, 10) : 0);
    if (s->in_len < whole) return;
    *end = 0;
    route(s, s->in, end + 4);
    memmove(s->in, s->in + whole, s->in_len -= whole);
    answer(s);
}

static void receive(stream *s) {
    for (;;) {
        if (s->in_len + 1 >= s->in_size) {
            if (s->in_size > MAX_REQUEST) return leave(s);
            s->in = realloc(s->in, s->in_size = s->in_size ? 2 * s->in_size : 4096);
        }
        ssize_t n = recv(s->fd, s->in + s->in_len, s->in_size - s->in_len - 1, 0);
        if (n > 0) s->in_len += n;
        else if (n < 0 && errno == EAGAIN) return answer(s);
        else return leave(s);
    }
}

static void welcome(int listener) {
    for (int fd, on = 1; (fd = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        stream *s = calloc(1, sizeof *s);
        s->fd = fd;
        s->heap_at = s->seq = -1;
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = s};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void wake(stream *s, uint32_t events) {
    if (!s->closed && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) receive(s);
    if (!s->closed && events & EPOLLOUT && flush(s)) {
        watch(s, 0);
        if (s->seq >= 0) schedule(s, now());
        else answer(s);
    }
}

static int listen_at(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) {
        perror("model: cannot listen");
        exit(1);
    }
    return fd;
}

static void options(int argc, char **argv, int *port) {
    for (int i = 1; i + 1 < argc; i += 2) {
        double value = atof(argv[i + 1]);
        if (!strcmp(argv[i], "--port")) *port = value;
        else if (!strcmp(argv[i], "--tokens")) tokens = value;
        else if (!strcmp(argv[i], "--rate")) set_rate(value);
        else if (!strcmp(argv[i], "--first-ms")) first_ns = value * 1e6;
        else exit((fprintf(stderr, "model: unknown option %s\n", argv[i]), 2));
    }
}

int main(int argc, char **argv) {
    int port = 9100;
    options(argc, argv, &port);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1000UL); /* sleep to the microsecond */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_at(port);
    struct epoll_event events[256], e = {.events = EPOLLIN};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int64_t wait = heap_len ? heap[0]->due - now() : 0;
        struct timespec time = {wait > 0 ? wait / 1000000000 : 0, wait > 0 ? wait % 1000000000 : 0};
        int n = epoll_pwait2(epoll_fd, events, 256, heap_len ? &time : 0, 0);
        for (int i = 0; i < n; i++)
            if (events[i].data.ptr) wake(events[i].data.ptr, events[i].events);
            else welcome(listener);
        int64_t t = now();
        stream *gone[256];
        int n_gone = 0;
        for (int i = 0; i < n; i++) {
            stream *s = events[i].data.ptr;
            if (s && s->closed == 1) gone[n_gone++] = s, s->closed = 2;
        }
        for (int turns = heap_len; turns-- && heap_len && heap[0]->due <= t;) {
            stream *s = heap[0];
            step(s);
            if (s->closed == 1 && n_gone < 256) gone[n_gone++] = s, s->closed = 2;
        }
        while (n_gone) {
            stream *s = gone[--n_gone];
            free(s->in);
            free(s->out);
            free(s);
        }
    }
}
