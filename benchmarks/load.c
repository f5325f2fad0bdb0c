/* Reads many streams at once and looks at each token's stamp, in whatever envelope it comes.
 *
 *     load --port 8000 --streams 100 --tokens 200 --ramp-ms 2000 --at-once 0 --timeout-s 60 REQUESTS
 *
 * REQUESTS is a file of raw HTTP/1.1 requests, each ended by a NUL byte. A stream makes --steps of them (1 or 2) one after the other on
 * one connection; stream i begins at number i * steps, from the start again past the end. "{id}" in the second is replaced by the
 * value of the JSON member --member in the answer to the first, which need not be the stream itself. Streams begin over --ramp-ms, and
 * with --at-once N no more than N are open: the next one begins when another is over.
 *
 * What comes after --stop TEXT (such as "event: done", whose data may hold the whole answer again) is not looked at.
 *
 * Prints lines of JSON. The last one tells what was whole, lost, doubled and out of order, and the delays in microseconds. A token's
 * delay is from its stamp (see model.c) to its arrival here, however many of them one event brings; the first token's is from the
 * sending of the first request. Lines before it are marks, with the tokens received so far: "streaming" when each stream has had its
 * first token, "ending" when the first of them is over. body_bytes are those of the last step's bodies, chunks' frames included;
 * tail_bytes of them came after --stop.
 *
 * With --hold 1 the streams are read until standard input is closed, and then all are left at once. One thread, epoll.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
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

typedef enum { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER } phase;

typedef struct {
    int fd, number, step, over, due_sent;
    int64_t begins, asked, first_at;
    char *request;
    size_t request_len, request_sent;
    /* the response */
    phase phase;
    char head[16384], line[64];
    size_t head_len, line_len;
    int64_t left;
    char first_body[8192];
    size_t first_body_len;
    /* the tokens */
    int stamp_state, next, distinct, stopped;
    size_t stop_matched;
    uint64_t seq, stamp;
    unsigned char *seen;
} stream;

typedef struct {
    int64_t *values;
    size_t len, size;
} sample;

static int epoll_fd, port = 8000, n_streams = 1, tokens = 200, steps = 1, at_once = 0, hold = 0;
static double ramp_ms = 0, timeout_s = 60;
static const char *member = "id", *stop_text = "";
static char **requests;
static size_t n_requests;
static sample delays, firsts;
static long whole, broken, lost, doubled, disordered, received, body_bytes, tail_bytes;
static int running, speaking; /* streams that are not over; that have had a token */
static char trouble[300];

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void note(sample *s, int64_t value) {
    if (s->len == s->size) s->values = realloc(s->values, (s->size = s->size ? 2 * s->size : 65536) * sizeof *s->values);
    s->values[s->len++] = value;
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double quantile(sample *s, double q) {
    return s->len ? s->values[(size_t)(q * (s->len - 1) + .5)] / 1e3 : 0;
}

static void mark(const char *name) {
    printf("{\"mark\": \"%s\", \"received\": %ld}\n", name, received);
    fflush(stdout);
}

static void end(stream *s, const char *why, const char *detail) {
    if (s->over) return;
    if (speaking == n_streams && running == n_streams) mark("ending");
    if (s->fd >= 0) close(s->fd);
    s->over = 1;
    running--;
    lost += tokens - s->distinct;
    if (s->distinct == tokens && !why) whole++;
    else broken++;
    if (why && !*trouble) {
        snprintf(trouble, sizeof trouble, "%s: %.200s", why, detail);
        for (char *c = trouble; *c; c++) if (!isprint((unsigned char)*c) || strchr("\"\\", *c)) *c = ' ';
    }
}

/* tokens: [<seq>@<ns>] */

static void token(stream *s, int64_t at) {
    received++;
    if (s->seq >= (uint64_t)tokens) { disordered++; return; }
    if (s->seen[s->seq]) { doubled++; return; }
    s->seen[s->seq] = 1;
    if ((int)s->seq != s->next) disordered++;
    s->next = s->seq + 1;
    note(&delays, at - (int64_t)s->stamp);
    if (s->distinct++) return;
    note(&firsts, at - s->asked);
    if (++speaking == n_streams && running == n_streams) mark("streaming");
}

static void scan(stream *s, const char *data, size_t n, int64_t at) {
    for (size_t i = 0; i < n && !s->stopped; i++) {
        unsigned digit = data[i] - '0';
        s->stop_matched = data[i] == stop_text[s->stop_matched] ? s->stop_matched + 1 : data[i] == *stop_text;
        s->stopped = *stop_text && !stop_text[s->stop_matched];
        if (s->stopped) tail_bytes += n - i - 1;
        if (data[i] == '[') s->stamp_state = 1, s->seq = s->stamp = 0;
        else if (s->stamp_state == 1 && digit < 10) s->seq = 10 * s->seq + digit;
        else if (s->stamp_state == 1 && data[i] == '@') s->stamp_state = 2;
        else if (s->stamp_state == 2 && digit < 10) s->stamp = 10 * s->stamp + digit;
        else {
            if (s->stamp_state == 2 && data[i] == ']' && s->stamp) token(s, at);
            s->stamp_state = 0;
        }
    }
}

static void body(stream *s, const char *data, size_t n, int64_t at) {
    if (s->stopped) tail_bytes += n;
    if (s->step == steps - 1) return scan(s, data, n, at);
    if (s->first_body_len + n < sizeof s->first_body) {
        memcpy(s->first_body + s->first_body_len, data, n);
        s->first_body_len += n;
    }
}

/* requests */

static void watch(stream *s, int operation, int writable) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (writable ? EPOLLOUT : 0), .data.ptr = s};
    epoll_ctl(epoll_fd, operation, s->fd, &e);
}

static void send_rest(stream *s) {
    ssize_t n = send(s->fd, s->request + s->request_sent, s->request_len - s->request_sent, MSG_NOSIGNAL);
    if (n > 0) s->request_sent += n;
    else if (n < 0 && errno != EAGAIN) return end(s, "cannot send", strerror(errno));
    watch(s, EPOLL_CTL_MOD, s->request_sent < s->request_len);
}

/* Make the next request: its text with "{id}" replaced. */
static void ask(stream *s, const char *id) {
    const char *text = requests[((size_t)s->number * steps + s->step) % n_requests], *hole = strstr(text, "{id}");
    free(s->request);
    if (hole) s->request_len = asprintf(&s->request, "%.*s%s%s", (int)(hole - text), text, id, hole + 4);
    else s->request_len = strlen(s->request = strdup(text));
    s->request_sent = s->head_len = s->line_len = 0;
    s->phase = HEAD;
}

static void answered(stream *s) {
    if (s->step == steps - 1) return end(s, s->distinct == tokens ? 0 : "a stream ended early", s->head);
    char key[64], id[100] = "";
    s->first_body[s->first_body_len] = 0;
    snprintf(key, sizeof key, "\"%s\"", member);
    char *at = strstr(s->first_body, key);
    if (!at || sscanf(at + strlen(key), " : \"%99[^\"]\"", id) != 1) return end(s, "no such member in", s->first_body);
    s->step++;
    ask(s, id);
    send_rest(s);
}

/* responses */

static size_t head(stream *s, const char *data, size_t n) {
    size_t old = s->head_len, room = sizeof s->head - 1 - old, taken = n < room ? n : room;
    memcpy(s->head + old, data, taken);
    s->head[s->head_len += taken] = 0;
    char *stop = strstr(s->head, "\r\n\r\n"), *found;
    if (!stop) {
        if (taken < n) end(s, "a head too long", s->head);
        return taken;
    }
    taken = stop + 4 - s->head - old;
    *stop = 0;
    int status = atoi(s->head + 9);
    if (status < 200 || status > 299) {
        end(s, s->head, data + (taken < n ? taken : 0));
        return taken;
    }
    int chunked = (found = strcasestr(s->head, "\r\ntransfer-encoding:")) && strcasestr(found, "chunked");
    found = strcasestr(s->head, "\r\ncontent-length:");
    s->left = found ? atoll(found + 17) : -1;
    s->phase = chunked ? CHUNK_SIZE : BODY;
    if (!chunked && !s->left) answered(s);
    return taken;
}

/* Take one byte of a line; return 1 at its end. */
static int line(stream *s, char c) {
    if (c != '\n') {
        if (c != '\r' && s->line_len < sizeof s->line - 1) s->line[s->line_len++] = c;
        return 0;
    }
    s->line[s->line_len] = 0;
    return 1;
}

static void feed(stream *s, const char *data, size_t n, int64_t at) {
    while (n && !s->over) {
        size_t taken = 1;
        int in_body = s->phase != HEAD && s->step == steps - 1;
        if (s->phase == HEAD) {
            taken = head(s, data, n);
        } else if (s->phase == BODY || s->phase == CHUNK) {
            taken = s->left >= 0 && (int64_t)n > s->left ? (size_t)s->left : n;
            body(s, data, taken, at);
            if (s->left >= 0 && !(s->left -= taken)) {
                if (s->phase == CHUNK) s->phase = CHUNK_END;
                else answered(s);
            }
        } else if (line(s, *data)) {
            size_t length = s->line_len;
            s->line_len = 0;
            if (s->phase == CHUNK_SIZE) s->phase = (s->left = strtoll(s->line, 0, 16)) ? CHUNK : TRAILER;
            else if (s->phase == CHUNK_END) s->phase = CHUNK_SIZE;
            else if (!length) answered(s);
        }
        body_bytes += in_body ? taken : 0;
        data += taken;
        n -= taken;
    }
}

static void receive(stream *s) {
    static char buffer[1 << 18];
    ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
    if (n > 0) {
        feed(s, buffer, n, now());
    } else if (!n && s->phase == BODY && s->left < 0) {
        answered(s);
    } else if (!n || errno != EAGAIN) {
        end(s, "the connection was closed", n ? strerror(errno) : s->head);
    }
}

static void begin(stream *s) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    s->due_sent = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || (connect(s->fd, (struct sockaddr *)&at, sizeof at) && errno != EINPROGRESS))
        return end(s, "cannot connect", strerror(errno));
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ask(s, "");
    s->asked = now();
    watch(s, EPOLL_CTL_ADD, 1);
}

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = 0;
    size_t size = 0;
    if (!file) exit((perror(path), 2));
    while (getdelim(&text, &size, 0, file) > 0) {
        requests = realloc(requests, (n_requests + 1) * sizeof *requests);
        requests[n_requests++] = strdup(text);
    }
    if (!n_requests) exit((fprintf(stderr, "load: no requests in %s\n", path), 2));
}

static void options(int argc, char **argv) {
    int i = 1;
    for (; i + 1 < argc && !strncmp(argv[i], "--", 2); i += 2) {
        char *name = argv[i] + 2, *value = argv[i + 1];
        if (!strcmp(name, "port")) port = atoi(value);
        else if (!strcmp(name, "streams")) n_streams = atoi(value);
        else if (!strcmp(name, "tokens")) tokens = atoi(value);
        else if (!strcmp(name, "steps")) steps = atoi(value);
        else if (!strcmp(name, "member")) member = value;
        else if (!strcmp(name, "stop")) stop_text = value;
        else if (!strcmp(name, "ramp-ms")) ramp_ms = atof(value);
        else if (!strcmp(name, "at-once")) at_once = atoi(value);
        else if (!strcmp(name, "hold")) hold = atoi(value);
        else if (!strcmp(name, "timeout-s")) timeout_s = atof(value);
        else exit((fprintf(stderr, "load: unknown option --%s\n", name), 2));
    }
    if (i + 1 != argc) exit((fprintf(stderr, "load: name one file of requests\n"), 2));
    read_requests(argv[i]);
}

int main(int argc, char **argv) {
    options(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1000UL);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    stream *streams = calloc(n_streams, sizeof *streams);
    int64_t began = now(), deadline = began + timeout_s * 1e9;
    int begun = 0;
    running = n_streams;
    for (int i = 0; i < n_streams; i++) {
        /* off the grid: at even steps many streams would share a phase, and their tokens would come in bursts */
        double jitter = (i * 0.6180339887498949) - (int64_t)(i * 0.6180339887498949);
        streams[i] = (stream){.fd = -1, .number = i, .begins = began + (i + jitter) / n_streams * ramp_ms * 1e6, .seen = calloc(tokens, 1)};
    }
    if (hold) epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &(struct epoll_event){.events = EPOLLIN});
    while (running && now() < deadline) {
        struct epoll_event events[256];
        int64_t t = now(), until = deadline;
        for (int room = at_once ? at_once - begun + n_streams - running : n_streams; room > 0 && begun < n_streams; room--) {
            if (streams[begun].begins > t) {
                until = streams[begun].begins < deadline ? streams[begun].begins : deadline;
                break;
            }
            begin(&streams[begun++]);
        }
        struct timespec wait = {until > t ? (until - t) / 1000000000 : 0, until > t ? (until - t) % 1000000000 : 0};
        int n = epoll_pwait2(epoll_fd, events, 256, &wait, 0);
        for (int i = 0; i < n; i++) {
            stream *s = events[i].data.ptr;
            if (!s) deadline = 0;
            else if (!s->over && events[i].events & EPOLLOUT) send_rest(s);
            if (s && !s->over && events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) receive(s);
        }
    }
    if (!hold)
        for (int i = 0; i < n_streams; i++) end(&streams[i], "not over in time", streams[i].head);
    qsort(delays.values, delays.len, sizeof *delays.values, by_value);
    qsort(firsts.values, firsts.len, sizeof *firsts.values, by_value);
    printf("{\"whole\": %ld, \"broken\": %ld, \"received\": %ld, \"lost\": %ld, \"doubled\": %ld, \"disordered\": %ld, "
           "\"delay_p50\": %.1f, \"delay_p99\": %.1f, \"first_p50\": %.1f, \"first_p99\": %.1f, "
           "\"seconds\": %.3f, \"body_bytes\": %ld, \"tail_bytes\": %ld, \"trouble\": \"%s\"}\n",
           whole, broken, received, lost, doubled, disordered, quantile(&delays, .5), quantile(&delays, .99), quantile(&firsts, .5),
           quantile(&firsts, .99), (now() - began) / 1e9, body_bytes, tail_bytes, trouble);
    return broken != 0;
}
