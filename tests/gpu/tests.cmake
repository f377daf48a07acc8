# What needs a GPU. run.sh does all of it by one command; a machine without a GPU skips it.
add_executable(gpu_gpt2 gpu/gpt2.c)
target_link_libraries(gpu_gpt2 PRIVATE helix_static)
add_test(NAME gpu/run COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/gpu/run.sh --build ${CMAKE_CURRENT_BINARY_DIR}/gpu_build --out ${CMAKE_CURRENT_BINARY_DIR}/gpu_run)
set_tests_properties(gpu/run PROPERTIES LABELS gpu TIMEOUT 600 SKIP_RETURN_CODE 77 RUN_SERIAL TRUE)
add_test(NAME unit/gpu_run_limits COMMAND bash -c "${CMAKE_CURRENT_SOURCE_DIR}/gpu/run.sh --dry | awk '{ s += $2 } END { print s; exit !(NR > 5 && s < 480) }'")
set_tests_properties(unit/gpu_run_limits PROPERTIES LABELS unit)
add_test(NAME gpu/gpt2_on_cpu COMMAND gpu_gpt2 --device=cpu --model.layers=1 --model.dim=32 --model.heads=2 --model.ctx=32
         --model.vocab=64 --train.batch=4 --train.micro_batch=2 --train.steps=7)
set_tests_properties(gpu/gpt2_on_cpu PROPERTIES LABELS bench TIMEOUT 60 PASS_REGULAR_EXPRESSION "tokens_per_s")
