/* llm.c's files: 256 numbers in i32, of which three say something, then the ids. nanoGPT's: u16 ids and nothing else. */
#include <string.h>
#include "io/data/tokens_impl.h"

#define HEADER_BYTES 1024

static const struct kind {
    int32_t magic, version;
    int width;
    int64_t vocab;
} kinds[] = {
    {20240520, 1, 2, 65536},         /* GPT-2's ids */
    {20240801, 7, 4, HX__VOCAB_U32}, /* LLaMA 3's */
};

static int32_t field(const hx_tokens *t, int i) {
    int32_t value;
    memcpy(&value, t->mapping + 4 * i, sizeof value);
    return value;
}

/* By its magic number; NULL: another file. */
static const struct kind *find_kind(const hx_tokens *t) {
    for (size_t i = 0; t->mapping_bytes >= 4 && i < sizeof kinds / sizeof *kinds; i++)
        if (field(t, 0) == kinds[i].magic) return &kinds[i];
    return NULL;
}

bool hx__tokens_is_llmc(const hx_tokens *t) { return find_kind(t) != NULL; }

static hx_status check_llmc(const hx_tokens *t, const struct kind *kind) {
    const int64_t room = t->mapping_bytes - HEADER_BYTES;
    if (room < 0)
        return HX_FAIL(HX_ERR_FORMAT, "%s: llm.c's magic number in a file of %lld bytes: expected a header of %d", t->path,
                       (long long)t->mapping_bytes, HEADER_BYTES);
    if (field(t, 1) != kind->version)
        return HX_FAIL(HX_ERR_FORMAT, "%s: llm.c's header, bytes 4 to 7: version %d, expected %d", t->path, field(t, 1), kind->version);
    if (field(t, 2) < 0 || room != (int64_t)field(t, 2) * kind->width)
        return HX_FAIL(HX_ERR_FORMAT, "%s: llm.c's header, bytes 8 to 11: %d tokens of %d bytes, but %lld bytes follow it", t->path,
                       field(t, 2), kind->width, (long long)room);
    return room > 0 ? HX_OK : HX_FAIL(HX_ERR_IO, "%s is empty: llm.c's header and no token", t->path);
}

hx_status hx__tokens_open_bin(hx_tokens *t) {
    const struct kind *kind = find_kind(t);
    if (kind) HX_TRY(check_llmc(t, kind));
    if (!kind && t->mapping_bytes % 2)
        return HX_FAIL(HX_ERR_FORMAT, "%s: %lld bytes, an odd number: a file .bin without llm.c's header is nanoGPT's, two bytes a token",
                       t->path, (long long)t->mapping_bytes);
    t->width = kind ? kind->width : 2;
    t->ids = t->mapping + (kind ? HEADER_BYTES : 0);
    t->info = (hx_tokens_info){.format = kind ? "llm.c" : "nanogpt",
                               .n_tokens = (t->mapping_bytes - (kind ? HEADER_BYTES : 0)) / t->width,
                               .n_documents = 1,
                               .vocab = kind ? kind->vocab : 65536};
    return HX_OK;
}
