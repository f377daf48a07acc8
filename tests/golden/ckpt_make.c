/* Writes the checkpoint of ckpt_state.h into a folder: `mpirun -n 2 ckpt_make FOLDER`. This is how the files ckpt-format*.h5 came
 * about, each with the version of Helix whose format it has; they are never made again, since they stand for files that users
 * have. No test runs this program. */
#include "tests/golden/ckpt_state.h"

int main(int argc, char **argv) {
    static const hx_ckpt_config config = HX_CKPT_DEFAULT;
    hx_comm *comm = NULL;
    hx_ckpt *ckpt = NULL;
    ckpt_state state;
    hx_status status = argc != 2 ? HX_ERR_ARG : hx_comm_was_launched() ? hx_comm_mpi_open(&comm) : hx_comm_self_open(&comm);
    if (status == HX_OK) status = ckpt_state_create(hx_comm_rank(comm), hx_comm_size(comm), &state);
    if (status == HX_OK) status = hx_ckpt_open(comm, argv[1], &config, "model:\n  dtype: bf16\n", &ckpt);
    if (status == HX_OK) status = hx_ckpt_set_kernels(ckpt, "cpu v3");
    if (status == HX_OK) status = hx_ckpt_save(ckpt, &ckpt_state_train, &state.list, false);
    if (status != HX_OK) fprintf(stderr, "ckpt_make: %s\n", hx_error_message());
    hx_ckpt_close(&ckpt);
    hx_comm_close(&comm);
    return status == HX_OK ? 0 : 1;
}
