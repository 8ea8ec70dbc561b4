/* The least that a move between two TLS connections can cost with OpenSSL: SSL_read into SSL_write, blocking.
 *
 *     cc -O2 -o tls tls.c -lssl -lcrypto && ./tls https://127.0.0.1:PORT/FROM https://127.0.0.1:PORT/TO CA.pem
 */
#define _GNU_SOURCE
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "http.h"

#define PIECE_BYTES (16 * 1024)

static void fail_tls(const char *what) {
    fprintf(stderr, "%s: ", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static SSL *secure(SSL_CTX *context, int fd) {
    SSL *tls = SSL_new(context);
    if (tls == NULL || !SSL_set_fd(tls, fd) || !SSL_set1_host(tls, "127.0.0.1") || SSL_connect(tls) != 1)
        fail_tls("handshake");
    return tls;
}

static void write_all(SSL *tls, const char *data, int size) {
    if (size > 0 && SSL_write(tls, data, size) != size)
        fail_tls("SSL_write");
}

static int read_head(SSL *tls, char *text, int *body) {
    int size = 0, count;
    while ((*body = head_end(text, size)) == 0) {
        if ((count = SSL_read(tls, text + size, HEAD_BYTES - 1 - size)) <= 0)
            fail_tls("SSL_read");
        size += count;
    }
    return size;
}

int main(int argc, char **argv) {
    static char head[HEAD_BYTES], answer[HEAD_BYTES], piece[PIECE_BYTES];
    int body, count;
    if (argc != 4)
        refuse("usage: tls SOURCE DESTINATION CA.pem");
    struct address from = parse(argv[1]), to = parse(argv[2]);
    if (!from.secure || !to.secure)
        refuse("tls moves HTTPS only");
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || !SSL_CTX_load_verify_locations(context, argv[3], NULL))
        fail_tls(argv[3]);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    /* OpenSSL would otherwise read the head of each record by a call of its own. */
    SSL_CTX_set_read_ahead(context, 1);
    SSL *source = secure(context, dial(from)), *destination = secure(context, dial(to));

    write_all(source, head, request_head(head, "GET", from, -1));
    int size = read_head(source, answer, &body);
    check_status(answer, " 200", " 200");
    long long left = content_length(answer);
    write_all(destination, head, request_head(head, "PUT", to, left));
    write_all(destination, answer + body, size - body);
    left -= size - body;

    while (left > 0) {
        if ((count = SSL_read(source, piece, PIECE_BYTES)) <= 0)
            fail_tls("SSL_read");
        write_all(destination, piece, count);
        left -= count;
    }
    read_head(destination, answer, &body);
    check_status(answer, " 201", " 204");
    return 0;
}
