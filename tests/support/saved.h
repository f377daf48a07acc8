/* Runs that save beside training against runs that wait for their saves: each checkpoint of the one holds what the other's does. Copies
 * begin late (HELIX_TEST_COPY_MS): what is changed before its copy is made shows. */
#ifndef HX_TESTS_SUPPORT_SAVED_H
#define HX_TESTS_SUPPORT_SAVED_H

#include "io/ckpt/ckpt.h"

#define SAVED_DELAY_MS 60 /* steps of small models take a few */

enum { SAVED_AT_ONCE, SAVED_BESIDE, SAVED_WAYS };

/* Collective. Below `root`, which all runs of a comparison have; all checkpoints are kept. */
void saved_open(hx_comm *ranks, const char *root, int way, hx_ckpt **ckpt, hx_checkpoint_hook *hook);
/* One process. The steps' checkpoints of both ways. @param what  for the message */
void saved_compare(const char *root, const char *what, int64_t first_step, int64_t last_step);

#endif
