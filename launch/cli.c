#include "launch/cli.h"

#include <stdio.h>
#include <string.h>

#define HX_OPTION_OWNER hx_cli_config
static const hx_option cli_options[] = HX_OPTIONS_TABLE(HX_CLI_OPTIONS);
#undef HX_OPTION_OWNER
enum { N_CLI_OPTIONS = sizeof cli_options / sizeof *cli_options };

static const hx_cli_config cli_defaults = HX_OPTIONS_DEFAULT(HX_CLI_OPTIONS);

static const hx_command commands[] = {
    {.name = "train", .summary = "train a model, or go on with a run", .run = hx_cmd_train, .own = "|", .takes_config = true,
     .output_is_log = true,
     .examples = "  helix train --data.path corpus.txt --out runs/a --train.steps 500\n"
                 "  mpirun -n 2 helix train --config run.yaml                    two ranks, options from a file\n"
                 "  mpirun -n 2 helix train --config run.yaml --resume           go on from the latest checkpoint\n"
                 "  helix train --config run.yaml --profile                      where the time of ten steps goes, by op\n"
                 "  HELIX_OPTIM_LR=3e-4 helix train --config run.yaml            the environment overrides the file\n"},
    {.name = "eval", .summary = "loss of a checkpoint on held-out text", .run = hx_cmd_eval, .own = "|use_ema|whole|json|",
     .takes_config = true, .words = "[RUN|FILE]", .max_words = 1,
     .examples = "  helix eval runs/a                                            held-out part of the run's own data\n"
                 "  helix eval runs/a --data.path other.txt --whole              all of another text\n"
                 "  mpirun -n 2 helix eval runs/a/ckpt/best --json               two ranks, for programs\n"},
    {.name = "generate", .summary = "let a checkpoint write text", .run = hx_cmd_generate,
     .own = "|prompt|tokens|temperature|top_k|seed|use_ema|", .takes_config = true, .words = "[RUN|FILE]", .max_words = 1,
     .examples = "  helix generate runs/a --prompt \"In the beginning\" --tokens 300\n"
                 "  helix generate runs/a/ckpt/best --temperature 0 --tokens 64  the likeliest continuation\n"},
    {.name = "ckpt", .summary = "look at checkpoints, compare, check and remove them", .verbs = hx_ckpt_verbs},
    {.name = "tokenize", .summary = "learn a tokenizer from text, turn text into ids and back", .verbs = hx_tokenize_verbs},
    {.name = "data", .summary = "make data sets of tokens from text files, look at them, check them", .verbs = hx_data_verbs},
    {.name = "plan", .summary = "before a launch: which mesh fits, what it needs, how long a step takes", .run = hx_cmd_plan,
     .own = "|hosts|gpus|memory_gib|base_mib|tflops|half_tflops|memory_gbs|link_gbs|network_gbs|latency_us|json|", .takes_config = true,
     .examples = "  helix plan --config run.yaml --hosts 2 --gpus 8              every mesh and ZeRO stage, best first\n"
                 "  helix plan --config run.yaml --gpus 4 --memory_gib 24 --train.micro_batch 1 --model.recompute 1\n"
                 "  helix plan --config run.yaml --hosts 16 --json               for programs\n"
                 "\nNeeds neither MPI nor a GPU: rank 0 of each mesh is rehearsed on a device that computes nothing, so that bytes are the\n"
                 "allocator's own. What mesh.* and ddp.zero say is left out: it is what is planned. The defaults are near an H100's data\n"
                 "sheet, not measured.\n"
                 "  step = max(compute, sums of gradients) + other communication;  compute = operations / tflops + bytes / memory_gbs,\n"
                 "  communication = bytes a rank sends in a ring / (link_gbs or network_gbs) + collectives x latency_us\n"},
    {.name = "bench", .summary = "how fast this machine trains, and how fast its ranks exchange memory", .verbs = hx_bench_verbs},
    {.name = "doctor", .summary = "check MPI, threads, HDF5, BLAS, devices, disk", .run = hx_cmd_doctor, .own = "|json|",
     .takes_config = true,
     .examples = "  helix doctor\n"
                 "  mpirun -n 2 helix doctor --out /scratch/me                   with MPI, on the disk of the run\n"},
    {.name = "version", .summary = "version of Helix and of what it uses", .run = hx_cmd_version, .own = "|json|",
     .examples = "  helix version --json\n"},
    {.name = NULL},
};
enum { MOST_NAMES = 32 }; /* of a list of commands or verbs */

/* The verbs of a command, or the commands. */
static const hx_command *list_of(const hx_command *command) { return command ? command->verbs : commands; }

/* The word by which a list knows it: the last one of its name. */
static const char *word_of(const hx_command *command) {
    const char *space = strrchr(command->name, ' ');
    return space ? space + 1 : command->name;
}

static const hx_command *find_in(const hx_command *list, const char *name) {
    for (; list->name; list++) {
        if (strcmp(list->name, name) == 0) return list;
        const hx_command *verb = list->verbs ? find_in(list->verbs, name) : NULL;
        if (verb) return verb;
    }
    return NULL;
}

const hx_command *hx_command_find(const char *name) { return find_in(commands, name); }

/* Commands are looked up as if they were options, so that both forgive the same slips. */
const char *hx_command_nearest(const hx_command *command, const char *word) {
    static const char help[] = "help";
    hx_option names[MOST_NAMES];
    char near[64];
    int n = 0;
    for (const hx_command *c = list_of(command); c->name && n < MOST_NAMES - 1; c++) names[n++] = (hx_option){.name = word_of(c)};
    if (!command) names[n++] = (hx_option){.name = help};
    hx_option_section section = {.prefix = "", .options = names, .n_options = n};
    if (!hx_options_nearest(&section, 1, word, near, sizeof near)) return NULL;
    for (int i = 0; i < n; i++)
        if (strcmp(names[i].name, near) == 0) return names[i].name;
    return NULL;
}

static hx_status unknown(const hx_command *command, const char *word) {
    const char *near = hx_command_nearest(command, word), *space = command ? " " : "", *name = command ? command->name : "";
    return HX_FAIL(HX_ERR_CONFIG, "there is no command %s%s%.64s%s%s%s; helix help%s%s lists them", name, space, word,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "", space, name);
}

hx_status hx_command_read(int argc, char *const *argv, const hx_command **out, int *n_used) {
    const hx_command *command = NULL;
    int n = 0;
    do {
        if (n == argc || argv[n][0] == '-')
            return HX_FAIL(HX_ERR_CONFIG, "helix %s needs a verb: helix help %s lists them", command ? command->name : "", command ? command->name : "");
        const hx_command *found = list_of(command);
        while (found->name && strcmp(word_of(found), argv[n]) != 0) found++;
        if (!found->name) return unknown(command, argv[n]);
        command = found;
        n++;
    } while (command->verbs);
    *out = command;
    *n_used = n;
    return HX_OK;
}

/* ---- reading ---- */

static bool is_own(const hx_command *command, const char *name) {
    char word[64];
    snprintf(word, sizeof word, "|%s|", name);
    return strstr(command->own, word) != NULL;
}

/* The run's sections and the command's own options. @param own [N_CLI_OPTIONS] */
static int cli_sections(const hx_command *command, hx_cli *cli, hx_option own[N_CLI_OPTIONS],
                        hx_option_section out[HX_CONFIG_MAX_SECTIONS]) {
    int n = hx_config_sections(&cli->config, out), n_own = 0;
    for (int i = 0; i < N_CLI_OPTIONS; i++)
        if (is_own(command, cli_options[i].name)) own[n_own++] = cli_options[i];
    out[n] = (hx_option_section){.prefix = "", .title = "This command", .options = own, .n_options = n_own,
                                 .config = &cli->own, .defaults = &cli_defaults};
    return n + 1;
}

hx_status hx__cli_read(const hx_command *command, hx_cli *cli, int argc, char *const *argv) {
    hx_option own[N_CLI_OPTIONS];
    hx_option_section sections[HX_CONFIG_MAX_SECTIONS];
    int n_sections = cli_sections(command, cli, own, sections);
    cli->words.n = 0;
    HX_TRY(hx__config_read(sections, n_sections, NULL, argc, argv, &cli->words, NULL));
    if (cli->words.n > command->max_words)
        return HX_FAIL(HX_ERR_CONFIG, "'%.64s' on the command line: helix %s takes %s; options begin with --",
                       cli->words.items[command->max_words], command->name,
                       command->words ? command->words : "options only");
    if (cli->words.n < command->min_words)
        return HX_FAIL(HX_ERR_CONFIG, "helix %s expects %s; helix %s --help shows examples", command->name, command->words, command->name);
    return HX_OK;
}

/* The file that the configuration names may be gone, or another one by now. The run's may be of other checkpoints: --resume_partial. */
static hx_status take_kept_tokenizer(const char *file, hx_cli *cli) {
    char kept[HX_PATH_BYTES], *path = cli->config.data.tokenizer;
    const hx_tokenizer_id *id = &cli->tokenizer;
    if (id->kind != HX_TOKENIZER_BPE || !hx__run_tokenizer(file, kept)) return HX_OK;
    if (!hx__is_tokenizer(kept, id) && (!path[0] || hx__is_tokenizer(path, id))) return HX_OK;
    if (strlen(kept) >= HX_OPTION_TEXT)
        return HX_FAIL(HX_ERR_CONFIG, "%.64s...: a path of %zu bytes: expected fewer than %d", kept, strlen(kept), HX_OPTION_TEXT);
    strcpy(path, kept);
    return HX_OK;
}

hx_status hx__cli_read_checkpoint(const hx_command *command, hx_cli *cli, int argc, char *const *argv,
                                  char file[HX_PATH_BYTES]) {
    HX_TRY(hx__cli_read(command, cli, argc, argv)); /* finds the path; what it sets else is read again below */
    hx_run_config run = cli->config.run;
    hx_mesh_config mesh = cli->config.mesh;
    hx_config stored;
    HX_TRY(hx__find_checkpoint(cli->words.n ? cli->words.items[0] : run.out, file));
    HX_TRY(hx__config_of_checkpoint(file, &stored));
    cli->config = stored;
    HX_TRY(hx__cli_read(command, cli, argc, argv));
    HX_TRY(hx__config_same_model(&stored, &cli->config, file));
    cli->config.run = run;
    cli->config.mesh = mesh;
    HX_TRY(hx__tokenizer_of_checkpoint(file, &cli->tokenizer));
    return strcmp(cli->config.data.tokenizer, stored.data.tokenizer) == 0 ? take_kept_tokenizer(file, cli) : HX_OK;
}

/* ---- help ---- */

static void kind_text(const hx_option *o, char out[160]) {
    switch (o->kind) {
    case HX_OPTION_INT: snprintf(out, 160, "integer, %.15g to %.15g", o->min, o->max); break;
    case HX_OPTION_REAL: snprintf(out, 160, "number, %.10g to %.10g", o->min, o->max); break;
    case HX_OPTION_BOOL: snprintf(out, 160, "switch"); break;
    case HX_OPTION_STR: snprintf(out, 160, "text of up to %d bytes", HX_OPTION_TEXT - 1); break;
    case HX_OPTION_LONG: snprintf(out, 160, "text of any length"); break;
    case HX_OPTION_CHOICE: snprintf(out, 160, "%s", o->choices); break;
    }
}

static void print_section(const hx_option_section *section) {
    if (section->n_options == 0) return;
    printf("\n%s\n", section->title);
    for (int i = 0; i < section->n_options; i++) {
        const hx_option *o = &section->options[i];
        char name[96] = "--", value[HX_OPTION_TEXT], kind[160];
        hx_option_key(section, o, name + 2, sizeof name - 2);
        hx_option_format(o, section->defaults, value, sizeof value);
        kind_text(o, kind);
        printf("  %-24s %s\n  %-24s [%s] %s\n", name, o->help, "", value[0] ? value : "empty", kind);
    }
}

static void print_options(const hx_command *command) {
    hx_cli cli = {.config = HX_CONFIG_DEFAULT, .own = cli_defaults};
    hx_option own[N_CLI_OPTIONS];
    hx_option_section sections[HX_CONFIG_MAX_SECTIONS];
    int n = cli_sections(command, &cli, own, sections);
    print_section(&sections[n - 1]);
    if (!command->takes_config) return;
    for (int i = 0; i < n - 1; i++) print_section(&sections[i]);
    fputs("\nOptions come from, later ones winning: --config FILE (YAML), the environment (HELIX_TRAIN_LOG_EVERY for\n"
          "--train.log_every), the command line. Numbers may end in k, M, G (thousands) or Ki, Mi, Gi (1024).\n", stdout);
}

/* Verbs, or commands. */
static void print_list(const hx_command *list) {
    for (; list->name; list++) printf("  %-10s %s\n", word_of(list), list->summary);
}

static void print_program(void) {
    fputs("helix: distributed training\n\n"
          "Examples\n"
          "  helix train --data.path corpus.txt --train.steps 500         train a small GPT on a text\n"
          "  mpirun -n 2 helix train --config run.yaml --resume           two ranks, go on where it stopped\n"
          "  helix generate runs/default --prompt \"In the\"                let it write\n"
          "  helix doctor                                                 what this machine offers, what is wrong\n"
          "\nCommands (helix COMMAND --help explains each)\n", stdout);
    print_list(commands);
    fputs("  help       this page, or that of a command\n"
          "\nExit codes\n"
          "  0 success   1 a fault of Helix   2 configuration or arguments   3 out of memory   4 reading or writing\n"
          "  5 a damaged or foreign file   6 a checkpoint of another model   7 a number is not finite\n"
          "  8 communication   9 device   10 another rank failed first   11 stopped by a signal, after a checkpoint\n", stdout);
}

void hx_help_print(const hx_command *command) {
    if (!command) {
        print_program();
        return;
    }
    printf("helix %s: %s\n", command->name, command->summary);
    if (command->verbs) {
        puts("\nExamples");
        for (const hx_command *v = command->verbs; v->name; v++) fputs(v->examples, stdout);
        printf("\nVerbs (helix %s VERB --help explains each)\n", command->name);
        print_list(command->verbs);
        return;
    }
    printf("\nExamples\n%s", command->examples);
    print_options(command);
}
