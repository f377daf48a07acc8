/* The commands of the `helix` program. Each has its examples, its own options, and a function that runs it. */
#ifndef HX_LAUNCH_CLI_H
#define HX_LAUNCH_CLI_H

#include <jansson.h>

#include "launch/config_impl.h"
#include "launch/session_impl.h"

#define HX_CLI_OPTIONS(X)                                                                                    \
    X(LONG, prompt, NULL, 0, 0, "generate: text that the sample goes on from")                               \
    X(INT, tokens, 256, 1, 1 << 20, "generate: tokens to make")                                              \
    X(REAL, temperature, 0.8, 0, 100, "generate: below 1 plays safe, above 1 is wild; 0: the likeliest token") \
    X(INT, top_k, 0, 0, 1 << 24, "generate: draw among this many likeliest tokens; 0: among all")            \
    X(INT, seed, 1, 0, 9e15, "generate: another number gives another sample")                                \
    X(BOOL, use_ema, false, 0, 0, "eval, generate, ckpt export: with the moving average of the weights (train.ema)") \
    X(BOOL, whole, false, 0, 0, "eval: use all of data.path, not only its held-out part")                    \
    X(BOOL, force, false, 0, 0, "ckpt delete: also the only whole checkpoint")                               \
    X(INT, keep, 3, 1, 1 << 20, "ckpt prune: checkpoints kept beside the best one")                          \
    X(INT, keep_every, 0, 0, 1e15, "ckpt prune: checkpoints whose step is a multiple of this are kept; 0: none") \
    X(BOOL, dry_run, false, 0, 0, "ckpt prune: tell what would be removed, remove nothing")                  \
    X(CHOICE, dtype, 0, "keep|f32|f64|bf16|f16", 0, "ckpt import, ckpt export: element type to convert to") \
    X(CHOICE, format, 0, "safetensors|npy", 0, "ckpt export: model.safetensors, or a .npy file for each tensor") \
    X(CHOICE, names, 0, "hf|helix", 0, "ckpt export: names and shapes of Hugging Face's GPT-2 or LLaMA, or our own, of any model") \
    X(INT, shard_mb, 0, 0, 1 << 30, "ckpt export: most MB in one file, with an index of several; 0: one file") \
    X(TEXT, tokenizer, "bytes", 0, 0, "data: bytes, a tokenizer.json, a vocab.json beside merges.txt, or a folder with either") \
    X(TEXT, field, "text", 0, 0, "data pack: string of a line of a .jsonl file that is its text")             \
    X(INT, min, 4096, 1024, 1ll << 40, "bench comm: bytes of the smallest buffer; each one is 8 times as large as the last") \
    X(INT, max, 512ll << 20, 1024, 1ll << 40, "bench comm: bytes of the largest buffer; a rank needs 4 times as much memory") \
    X(INT, rounds, 7, 1, 10000, "bench cpu: samples of each case, of which the median is told")               \
    X(TEXT, only, "", 0, 0, "bench cpu: cases whose name has one of these words in it, e.g. gpt2,gemm-1024; empty: all") \
    X(BOOL, bf16, false, 0, 0, "bench cpu: training in bf16, too")                                           \
    X(BOOL, list, false, 0, 0, "bench cpu: print the cases' names and what they are, run none")              \
    X(INT, hosts, 1, 1, 65536, "plan: hosts of the run")                                                     \
    X(INT, gpus, 8, 1, 65536, "plan: ranks on each host, a GPU each")                                        \
    X(REAL, memory_gib, 80, 0.001, 1e6, "plan: memory of a GPU")                                             \
    X(INT, base_mib, 0, 0, 1 << 30, "plan: MiB of a process beside the arena; 0: 36 with --device cpu, else 1024") \
    X(REAL, tflops, 50, 1e-6, 1e9, "plan: 10^12 operations a second of a GPU's products in f32")             \
    X(REAL, half_tflops, 600, 1e-6, 1e9, "plan: the same in bf16 and f16")                                   \
    X(REAL, memory_gbs, 2600, 1e-6, 1e9, "plan: 10^9 bytes a second of a GPU's memory")                      \
    X(REAL, link_gbs, 350, 1e-6, 1e9, "plan: that a GPU sends to another one of its host")                   \
    X(REAL, network_gbs, 40, 1e-6, 1e9, "plan: that a GPU sends to another host")                            \
    X(REAL, latency_us, 20, 0, 1e9, "plan: microseconds that a collective takes however little it moves")    \
    X(INT, vocab, 50257, 257, 1 << 24, "tokenize: ids of the tokenizer, bytes and <|endoftext|> among them")  \
    X(BOOL, json, false, 0, 0, "eval, ckpt, data, tokenize, plan, bench, doctor, version: one JSON object for programs; bench cpu: one a line")

HX_OPTIONS_STRUCT(hx_cli_config, HX_CLI_OPTIONS);

/* What the command line of a command said. */
typedef struct hx_cli {
    hx_config config;
    hx_cli_config own;
    hx_words words;
    hx_tokenizer_id tokenizer; /* of the checkpoint that hx__cli_read_checkpoint has found */
    int exit_code; /* set by a command that ran but has bad news (doctor); 0 otherwise */
} hx_cli;

typedef struct hx_command {
    const char *name, *summary; /* of a verb both words: "ckpt list" */
    const char *examples;  /* first thing in its help */
    const char *own;       /* names of its own options, "|prompt|tokens|" */
    bool takes_config;     /* the run's options are its options */
    const char *words;     /* arguments that are no options, for help and messages: "[PATH]"; NULL: none */
    int min_words, max_words;
    bool output_is_log;    /* what it prints is no result: a job whose output is lost has done its work */
    /** @param argc, argv  after the command's name; the command reads them with hx__cli_read when it wants */
    hx_status (*run)(hx_cli *cli, int argc, char *const *argv, hx_session **session);
    const struct hx_command *verbs; /* instead of `run`; the last one has no name. NULL: it has none */
} hx_command;

/** A command, or a verb by both its words, or NULL. */
const hx_command *hx_command_find(const char *name);
/** The command, or verb of `command` (NULL: of the program), whose name is nearest to a word; NULL: none is near. */
const char *hx_command_nearest(const hx_command *command, const char *word);
/** The command that leading words name, "eval" or "ckpt list". @param[out] n_used  words of it
 *  @return HX_ERR_CONFIG: there is none, or a verb is missing; with the nearest one */
hx_status hx_command_read(int argc, char *const *argv, const hx_command **out, int *n_used);

/** Read options of `command` over the values in *cli. @return HX_ERR_CONFIG: an option of another command, ... */
hx_status hx__cli_read(const hx_command *command, hx_cli *cli, int argc, char *const *argv);
/** As hx__cli_read, but the base is the configuration stored in the checkpoint that the first word, or `out`, means;
 *  the run's own section and the mesh are not taken from there. Where no other data.tokenizer is named, it is the one that the run's
 *  folder keeps, if it keeps one. @return HX_ERR_MISMATCH: another model is asked for */
hx_status hx__cli_read_checkpoint(const hx_command *command, hx_cli *cli, int argc, char *const *argv,
                                  char file[HX_PATH_BYTES]);

/** Collective. Read the model's weights from a checkpoint, and its scalars.
 *  @param use_ema  the averages of the weights in their place; frozen ones have none and are themselves
 *  @return HX_ERR_CONFIG: use_ema, and the configuration, which is the checkpoint's, keeps no averages */
hx_status hx__load_model(hx_session *session, const char *file, bool use_ema, const hx_model *model, hx_train_state *state);
/** A number; null where it is not finite, for which JSON has no word. */
json_t *hx__json_real(double value);
/** Write an object as one line to standard output; takes the reference also on failure. NULL is HX_ERR_MEMORY. */
hx_status hx__print_json(json_t *object);
/** Print the character that text begins with, n > 0 bytes: what is seen, and line ends and tabs, as they are, everything else (broken
 *  bytes, and what would steer a terminal) as \xNN. Returns its length. */
size_t hx__print_character(const uint8_t *text, size_t n);
/** Name and version of the MPI library, on one line. No MPI_Init needed. */
void hx__mpi_version(char *out, size_t n_bytes);

/** Help of the program (command NULL) or of a command, to standard output. Touches neither MPI nor a device. */
void hx_help_print(const hx_command *command);

hx_status hx_cmd_train(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_eval(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_generate(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_plan(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_doctor(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_version(hx_cli *cli, int argc, char *const *argv, hx_session **session);

/* ---- cmd_data.c ---- */

extern const hx_command hx_data_verbs[];

/* ---- cmd_ckpt.c, ckpt_show.c, ckpt_diff.c ---- */

extern const hx_command hx_ckpt_verbs[];
/** The folder of checkpoints that the first word, or `out`, means: a run's, or itself. @return HX_ERR_CONFIG: a file */
hx_status hx__ckpt_folder(const hx_cli *cli, char folder[HX_PATH_BYTES]);
hx_status hx_cmd_ckpt_list(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_ckpt_diff(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_ckpt_delete(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_ckpt_prune(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_ckpt_show(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_ckpt_import(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_ckpt_export(hx_cli *cli, int argc, char *const *argv, hx_session **session);
hx_status hx_cmd_ckpt_verify(hx_cli *cli, int argc, char *const *argv, hx_session **session);

/* ---- cmd_bench.c ---- */

extern const hx_command hx_bench_verbs[];

/* ---- cmd_tokenize.c ---- */

extern const hx_command hx_tokenize_verbs[];

#endif
