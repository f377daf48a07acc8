/* Fuzz tokenizers: an input is a tokenizer.json, a zero byte, and a text. The file is refused with its name or understood, never crashes;
 * what is understood gives the text back, and is the same when it was written and read again. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/text/tokenizer_impl.h"
#include "tests/fuzz/fuzz.h"

static long n_inputs, n_understood;
static char folder[64], path[96];

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    snprintf(folder, sizeof folder, "/tmp/fuzz_tokenizer.%ld", (long)getpid());
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    return 0;
}

static hx_status open_text(const uint8_t *json, size_t n, hx_tokenizer **out) {
    char name[64];
    int fd = memfd_create("tokenizer.json", 0);
    hx_fuzz_must(fd >= 0 && write(fd, json, n) == (ssize_t)n, "there is memory for a file");
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    hx_error_clear();
    hx_status status = hx_tokenizer_open(name, out);
    hx_fuzz_must(status == HX_OK || strstr(hx_error_message(), name), "a refusal names the file");
    close(fd);
    return status;
}

/* A file may ask for spaces that are put to a text, or that tokens take away. */
static bool keeps_text(const hx_tokenizer *t) {
    bool keeps = !t->prefix_space;
    for (int64_t i = 0; i < t->n_added; i++) keeps &= !t->added[i].lstrip && !t->added[i].rstrip;
    return keeps;
}

static void gives_text_back(const hx_tokenizer *t, const uint8_t *text, size_t n) {
    hx_encoder *e;
    hx_ids ids = {0};
    hx_text back = {0};
    hx_fuzz_must(hx_encoder_create(t, &e) == HX_OK, "there is an encoder for what was understood");
    hx_status status = hx_encode(e, (const char *)text, n, &ids);
    hx_fuzz_must(status == HX_OK || status == HX_ERR_UNSUPPORTED, "a text is encoded, or too hard for the pattern");
    if (status == HX_OK) {
        hx_fuzz_must(hx_decode(t, ids.ids, ids.n, &back) == HX_OK, "ids that were made stand for something");
        if (keeps_text(t)) hx_fuzz_must(back.n == (int64_t)n && (n == 0 || memcmp(back.bytes, text, n) == 0), "decode(encode(x)) = x");
    }
    hx_text_destroy(&back);
    hx_ids_destroy(&ids);
    hx_encoder_destroy(&e);
}

static void survives_round_trip(const hx_tokenizer *t) {
    hx_tokenizer *back = NULL;
    hx_fuzz_must(hx_tokenizer_save(t, folder) == HX_OK, "what was understood can be written");
    hx_fuzz_must(hx_tokenizer_open(path, &back) == HX_OK, "what was written is understood");
    hx_fuzz_must(hx_tokenizer_hash(back) == hx_tokenizer_hash(t), "a round trip changes nothing");
    hx_tokenizer_close(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    hx_tokenizer *t = NULL;
    const uint8_t *zero = memchr(data, 0, size);
    size_t n_json = zero ? (size_t)(zero - data) : size;
    n_inputs++;
    if (open_text(data, n_json, &t) != HX_OK) return 0;
    n_understood++;
    gives_text_back(t, data + n_json + (zero != NULL), size - n_json - (zero != NULL));
    if (size % 16 == 0) survives_round_trip(t); /* not each: files are made durable */
    hx_tokenizer_close(&t);
    return 0;
}

bool hx_fuzz_end(void) {
    char other[96];
    static const char *const names[] = {"tokenizer.json", "vocab.json", "merges.txt"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(other, sizeof other, "%s/%s", folder, names[i]);
        unlink(other);
    }
    rmdir(folder);
    printf("%ld inputs, %ld understood\n", n_inputs, n_understood);
    return n_understood > n_inputs / 100 && n_understood < n_inputs;
}
