/* GPT-2 writes tokens as text: each byte is a letter that can be seen. */
#include "io/text/tokenizer_impl.h"

#define FIRST_INVISIBLE 0x100
enum { N_INVISIBLE = 33 + 34 + 1 }; /* 00-20, 7F-A0, AD */

static bool is_visible(int byte) { return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad); }

/* The i-th byte that cannot be seen. */
static int invisible_byte(int i) {
    if (i < 33) return i;
    return i < 33 + 34 ? 0x7f + i - 33 : 0xad;
}

int hx__byte_letter(int byte) {
    if (is_visible(byte)) return byte;
    if (byte < 33) return FIRST_INVISIBLE + byte;
    return FIRST_INVISIBLE + (byte == 0xad ? N_INVISIBLE - 1 : byte - 0x7f + 33);
}

int hx__byte_ranked(int i) {
    enum { VISIBLE_ASCII = 0x7e - 0x21 + 1, VISIBLE = 256 - N_INVISIBLE };
    if (i < VISIBLE_ASCII) return 0x21 + i;
    if (i >= VISIBLE) return invisible_byte(i - VISIBLE);
    int byte = 0xa1 + i - VISIBLE_ASCII;
    return byte < 0xad ? byte : byte + 1;
}

int64_t hx__bytes_of_letters(const char *text, size_t n_bytes, char *bytes) {
    int64_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        int c = (unsigned char)text[i], letter = c;
        if (c >= 0x80) { /* all letters are below U+0800: two bytes */
            if (c < 0xc2 || c > 0xdf || ++i == n_bytes) return -1;
            letter = (c & 0x1f) << 6 | (text[i] & 0x3f);
        }
        if (letter >= FIRST_INVISIBLE + N_INVISIBLE || (letter < FIRST_INVISIBLE && !is_visible(letter))) return -1;
        bytes[n++] = (char)(letter < FIRST_INVISIBLE ? letter : invisible_byte(letter - FIRST_INVISIBLE));
    }
    return n;
}

void hx__letters_of_bytes(const void *bytes, size_t n_bytes, char *text) {
    const unsigned char *b = bytes;
    for (size_t i = 0; i < n_bytes; i++) {
        int letter = hx__byte_letter(b[i]);
        if (letter >= 0x80) *text++ = (char)(0xc0 | letter >> 6);
        *text++ = (char)(letter < 0x80 ? letter : 0x80 | (letter & 0x3f));
    }
    *text = '\0';
}
