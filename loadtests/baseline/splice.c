/* The least that a move between two plain connections can cost: splice, blocking, one pipe of 1 MiB.
 *
 *     cc -O2 -o splice splice.c && ./splice http://127.0.0.1:PORT/FROM http://127.0.0.1:PORT/TO
 */
#define _GNU_SOURCE
#include <fcntl.h>

#include "http.h"

#define PIPE_BYTES (1 << 20)

static void send_all(int fd, const char *data, int size) {
    while (size > 0) {
        int sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent <= 0)
            fail("send");
        data += sent, size -= sent;
    }
}

/* Read a head; returns how much was read, and where the body begins in it. */
static int read_head(int fd, char *text, int *body) {
    int size = 0, count;
    while ((*body = head_end(text, size)) == 0) {
        if ((count = recv(fd, text + size, HEAD_BYTES - 1 - size, 0)) <= 0)
            fail("recv");
        size += count;
    }
    return size;
}

int main(int argc, char **argv) {
    char head[HEAD_BYTES], answer[HEAD_BYTES];
    int pipe_ends[2], body;
    if (argc != 3)
        refuse("usage: splice SOURCE DESTINATION");
    struct address from = parse(argv[1]), to = parse(argv[2]);
    if (from.secure || to.secure)
        refuse("splice moves plain HTTP only");
    int source = dial(from), destination = dial(to);
    if (pipe(pipe_ends) < 0 || fcntl(pipe_ends[1], F_SETPIPE_SZ, PIPE_BYTES) < 0)
        fail("pipe");

    send_all(source, head, request_head(head, "GET", from, -1));
    int size = read_head(source, answer, &body);
    check_status(answer, " 200", " 200");
    long long left = content_length(answer);
    send_all(destination, head, request_head(head, "PUT", to, left));
    send_all(destination, answer + body, size - body);
    left -= size - body;

    while (left > 0) {
        ssize_t count = splice(source, NULL, pipe_ends[1], NULL, left < PIPE_BYTES ? left : PIPE_BYTES, SPLICE_F_MOVE);
        if (count <= 0)
            fail("splice from the source");
        left -= count;
        while (count > 0) {
            /* SPLICE_F_MORE until the last piece, as MSG_MORE of send(2): the kernel sends full
             * segments. */
            ssize_t moved = splice(pipe_ends[0], NULL, destination, NULL, count, SPLICE_F_MOVE | (left ? SPLICE_F_MORE : 0));
            if (moved <= 0)
                fail("splice into the destination");
            count -= moved;
        }
    }
    read_head(destination, answer, &body);
    check_status(answer, " 201", " 204");
    return 0;
}
