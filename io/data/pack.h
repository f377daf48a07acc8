/* Text files become one token data set (io/data/tokens.h).
 *
 *     hx_tokenizer *t;  HX_TRY(hx_tokenizer_open("gpt2", &t));
 *     const hx_pack_config c = {.files = files, .n_files = 2, .out = "train.h5"};
 *     hx_pack_report report;  HX_TRY(hx_pack(t, &c, &report));
 *
 * A file `x.jsonl` is a document a line: an object with a string "text" (or another field), or with strings "prompt" and "completion", of
 * which the prompt is no target. Half a surrogate pair ("\ud83d" alone) is read as U+FFFD, a byte order mark before the first line is passed over.
 * Any other file is one document, whatever its bytes; threads share a large one where hx_tokenizer_cut knows how. Documents without tokens are left out; each ends
 * with HX_END_OF_TEXT where the tokenizer has it. Their order is that of the files, whatever the number of threads.
 *
 * While it works there is a folder `train.h5.pack` beside the result, with what is done so far and a journal of it. A pack that was
 * killed goes on from there when it is started again with the same arguments, and ends with the same bytes.
 */
#ifndef HX_IO_DATA_PACK_H
#define HX_IO_DATA_PACK_H

#include "io/text/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_pack_report {
    int64_t n_bytes, n_done;     /* of text: in all, and so far */
    int64_t n_resumed;           /* of n_done: by an earlier start */
    int64_t n_tokens, n_documents;
} hx_pack_report;

typedef struct hx_pack_config {
    const char *const *files; /* [n_files], in the order of the data set */
    int n_files;
    const char *out;
    const char *field; /* of the lines of .jsonl files; NULL: "text" */
    int n_threads;     /* 0: all cores that this process may use */
    /** Called on the caller's thread, every few MiB of text. May be NULL. */
    void (*progress)(void *self, const hx_pack_report *report);
    void *progress_self;
} hx_pack_config;

/** Local. The file `out` is whole or not there.
 *  @param[out] report  may be NULL
 *  @return HX_ERR_CONFIG: out exists; a pack of other arguments or changed files was begun there, or another one is at work; a
 *          file was written to meanwhile;
 *          HX_ERR_FORMAT: a line that is none, with file and number; HX_ERR_IO: what cannot be read or written */
hx_status hx_pack(const hx_tokenizer *tokenizer, const hx_pack_config *config, hx_pack_report *report);

#ifdef __cplusplus
}
#endif
#endif
