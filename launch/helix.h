/* Helix: distributed training in C. This header brings in the whole public interface.
 *
 * Start with launch/compose.h (runs), core/op/ops.h (tensors and ops), core/nn/layers.h (layers). Link with -lhelix.
 */
#ifndef HX_HELIX_H
#define HX_HELIX_H

#define HELIX_VERSION_MAJOR 0
#define HELIX_VERSION_MINOR 1
#define HELIX_VERSION_PATCH 0
#define HELIX_VERSION       "0.1.0"

#include "core/analysis/grad_flow.h"
#include "core/autograd/gradcheck.h"
#include "core/autograd/tape.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/base/status.h"
#include "core/nn/layers.h"
#include "core/nn/loss.h"
#include "core/nn/recompute.h"
#include "core/nn/state_dict.h"
#include "core/op/graph.h"
#include "core/op/ops.h"
#include "core/optim/ema.h"
#include "core/optim/optim.h"
#include "core/optim/scaler.h"
#include "core/optim/schedule.h"
#include "core/tensor/layout.h"
#include "core/train/loss_model.h"
#include "core/train/metrics.h"
#include "core/train/trainer.h"
#include "dist/comm/comm.h"
#include "dist/dp/ddp.h"
#include "dist/mesh.h"
#include "io/ckpt/ckpt.h"
#include "io/data/data.h"
#include "io/data/dataset.h"
#include "io/data/npy.h"
#include "io/data/pack.h"
#include "io/data/table.h"
#include "io/data/tokens.h"
#include "io/log/history_h5.h"
#include "io/log/jsonl.h"
#include "launch/compose.h"

#ifdef __cplusplus
extern "C" {
#endif

/** "0.1.0": the version of the library that runs, which may be newer than the header's. */
const char *hx_version(void);

#ifdef __cplusplus
}
#endif
#endif
