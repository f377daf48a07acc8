foreach(f malloc calloc realloc aligned_alloc)
  target_link_options(unit_steady_state PRIVATE -Wl,--wrap=${f})
endforeach()

# Recomputed activations on asynchronous streams: the second run finds what the first one left there.
add_test(NAME unit/recompute/async COMMAND unit_recompute -j1)
set_tests_properties(unit/recompute/async PROPERTIES LABELS unit TIMEOUT 600 ENVIRONMENT HELIX_STREAM=async)
# The cpu backend's promises hold for each set of its kernels.
foreach(isa ${isas})
  add_test(NAME unit/cpu/${isa} COMMAND unit_cpu -j1)
  set_tests_properties(unit/cpu/${isa} PROPERTIES LABELS unit TIMEOUT 600 ENVIRONMENT HELIX_CPU_ISA=${isa}
                       SKIP_REGULAR_EXPRESSION "this CPU does not have it")
endforeach()
foreach(name tokenizer cut)
  target_compile_definitions(unit_${name} PRIVATE HELIX_TOKENIZER_FOLDER="${CMAKE_CURRENT_SOURCE_DIR}/golden/tokenizer")
endforeach()
