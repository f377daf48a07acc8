/* helix train, helix eval: the commands that work on data. */
#include "launch/cli.h"

#include <stdio.h>

#include "core/optim/ema.h"

hx_status hx_cmd_train(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    hx_model model = {0};
    HX_TRY(hx__cli_read(hx_command_find("train"), cli, argc, argv));
    HX_TRY(hx_session_open(&cli->config, session));
    HX_TRY(hx_session_gpt(*session, &model));
    hx_status status = hx_session_train(*session, &model, NULL);
    hx_layer_destroy(&model.root);
    return status;
}

/* What is read: all parameters, and of those that were trained the averages. @param[out] ema  NULL: not wanted */
static hx_status list_items(hx_session *s, const hx_model *model, hx_ema **ema, hx_state_list *items) {
    hx_agreement ranks;
    hx_param_list params = {0};
    hx_status status = HX_OK;
    hx__session_ranks(s, &ranks);
    if (ema != NULL) HX_TRY(hx_layer_freeze_list(model->root, s->config.train.freeze, NULL));
    HX_TRY(hx_layer_params(model->root, &params));
    HX_TRY_GOTO(hx_params_state(&params, &ranks, items), done);
    if (ema != NULL) {
        HX_TRY_GOTO(hx_ema_create(&s->ctx, &params, 0, ema), done);
        HX_TRY_GOTO(hx_ema_state(*ema, &ranks, items), done);
    }
    status = hx_stream_sync(s->stream); /* what fills the averages must not overtake what is read into them */
done:
    hx_param_list_destroy(&params);
    return status;
}

hx_status hx__load_model(hx_session *session, const char *file, bool use_ema, const hx_model *model, hx_train_state *state) {
    hx_comm *world = hx_session_world(session);
    hx_state_list items = {0};
    hx_ema *ema = NULL;
    hx_status status = HX_OK;
    if (use_ema && session->config.train.ema == 0)
        status = HX_FAIL(HX_ERR_CONFIG, "use_ema: %s was written with train.ema = 0: it holds no averages", file);
    if (status == HX_OK) status = list_items(session, model, use_ema ? &ema : NULL, &items);
    status = hx_comm_agree(world, status);
    if (status == HX_OK) status = hx_ckpt_load(world, file, &items, state);
    if (status == HX_OK && ema != NULL) status = hx_comm_agree(world, hx_ema_swap(ema, &session->ctx));
    hx_ema_destroy(&ema); /* what stands in the parameters stays there */
    hx_state_list_destroy(&items);
    return hx__session_fail(session, status);
}

typedef struct eval_result {
    const char *file;
    int64_t step;
    double count; /* targets, or the sum of their weights */
    double loss;
    const hx_model *model;
} eval_result;

static hx_status print_eval(const eval_result *e, bool json) {
    double second = e->loss * e->model->unit_per_count;
    if (!json) {
        printf("%s, step %lld: loss %.4f nats", e->file, (long long)e->step, e->loss);
        if (e->model->unit_name) printf(", %.4f %s", second, e->model->unit_name);
        printf(" over %.15g targets\n", e->count);
        return HX_OK;
    }
    json_t *o = json_pack("{s:s, s:I, s:o, s:o}", "checkpoint", e->file, "step", (json_int_t)e->step, "loss",
                          hx__json_real(e->loss), "targets", hx__json_real(e->count));
    if (o && e->model->unit_name) json_object_set_new(o, "bits_per_byte", hx__json_real(second));
    return hx__print_json(o);
}

static hx_status eval_model(hx_cli *cli, hx_session *session, const char *file, const hx_model *model) {
    hx_session_data data = {0};
    hx_train_state state;
    eval_result e = {.file = file, .model = model};
    HX_TRY(hx__load_model(session, file, cli->own.use_ema, model, &state));
    e.step = state.step;
    HX_TRY(hx__session_fail(session, hx__session_data_open(session, false, true, cli->own.whole, &data)));
    hx_status status = hx_comm_agree(hx_session_world(session), hx__same_tokenizer_of_data(session, file, &cli->tokenizer, &data, ""));
    status = hx__session_fail(session, status);
    if (status == HX_OK) status = hx_session_eval(session, model, data.eval_loader ? &data.eval : NULL, &e.loss, &e.count);
    hx__session_data_close(&data);
    if (status != HX_OK || hx_comm_rank(hx_session_world(session)) != 0) return status;
    return print_eval(&e, cli->own.json);
}

hx_status hx_cmd_eval(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    char file[HX_PATH_BYTES];
    hx_model model = {0};
    HX_TRY(hx__cli_read_checkpoint(hx_command_find("eval"), cli, argc, argv, file));
    HX_TRY(hx_session_open(&cli->config, session));
    HX_TRY(hx_session_gpt(*session, &model));
    hx_status status = eval_model(cli, *session, file, &model);
    hx_layer_destroy(&model.root);
    return status;
}
