/* helix ckpt: the table of its verbs, and those that work on a folder of checkpoints. */
#include "launch/cli.h"

const hx_command hx_ckpt_verbs[] = {
    {.name = "ckpt show", .summary = "what a checkpoint holds: state, tensors, who wrote it", .run = hx_cmd_ckpt_show, .own = "|json|",
     .words = "[RUN|FILE]", .max_words = 1,
     .examples = "  helix ckpt show runs/a                                       the latest checkpoint of a run\n"
                 "  helix ckpt show runs/a/ckpt/best --json                      its best one, for programs\n"},
    {.name = "ckpt verify", .summary = "read all of a checkpoint, compare checksums", .run = hx_cmd_ckpt_verify, .own = "|json|",
     .words = "[RUN|FILE]", .max_words = 1,
     .examples = "  helix ckpt verify runs/a                                     the latest checkpoint of a run\n"},
    {.name = NULL},
};
