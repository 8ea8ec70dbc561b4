/* What both baselines share: an address of 127.0.0.1, a connection, and just enough of HTTP/1.1 for nginx.
 *
 * These are yardsticks and not programs to use: addresses must be http(s)://127.0.0.1:PORT/PATH, the source must tell
 * its length, and anything unexpected ends the program with a line on stderr and status 1.
 */
#ifndef BASELINE_HTTP_H
#define BASELINE_HTTP_H

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_BYTES 16384

struct address {
    int port, secure;
    const char *path;
};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void refuse(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static struct address parse(const char *url) {
    struct address found = {0, strncmp(url, "https://", 8) == 0, NULL};
    const char *host = strstr(url, "://");
    if (host == NULL || strncmp(host, "://127.0.0.1:", 13) != 0)
        refuse("an address must be http(s)://127.0.0.1:PORT/PATH");
    found.port = atoi(host + 13);
    found.path = strchr(host + 13, '/');
    if (found.path == NULL)
        refuse("an address must have a path");
    return found;
}

static int dial(struct address where) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(where.port)};
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&peer, sizeof peer) < 0)
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Write the head of a request; `length` < 0 for one without a body. Returns its size. */
static int request_head(char *into, const char *method, struct address where, long long length) {
    int size = snprintf(into, HEAD_BYTES, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n", method, where.path, where.port);
    if (length >= 0)
        size += snprintf(into + size, HEAD_BYTES - size, "Content-Length: %lld\r\n", length);
    return size + snprintf(into + size, HEAD_BYTES - size, "\r\n");
}

/* Return where the body begins in an answer's first bytes, or 0 if the head is not whole yet. */
static int head_end(char *text, int size) {
    text[size] = 0;
    char *end = strstr(text, "\r\n\r\n");
    return end == NULL ? 0 : (int)(end - text) + 4;
}

static void check_status(const char *text, const char *first, const char *second) {
    if (strncmp(text + 8, first, 4) != 0 && strncmp(text + 8, second, 4) != 0) {
        fprintf(stderr, "answered%.5s\n", text + 8);
        exit(1);
    }
}

static long long content_length(const char *text) {
    const char *found = strcasestr(text, "\r\nContent-Length:");
    if (found == NULL)
        refuse("the source tells no length");
    return atoll(found + 17);
}

#endif
