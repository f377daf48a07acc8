# The emulator: backends/cuda compiled for the host, over a CUDA runtime of its own (tests/emu/emu.h). libhelix_emu.so is the
# plug-in that HELIX_CUDA_PLUGIN names in tests; libhelix_emu_runtime.so is the runtime alone, for tests of the emulator.
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|amd64|AMD64" OR HELIX_SANITIZE)
  message(STATUS "no emulated CUDA device: it needs x86-64 and changes stacks, which sanitizers cannot follow")
  return()
endif()
enable_language(CXX)

# CUDA's code: reinterprets types freely, has its own pragmas, and no exact floating-point contraction; the two checks of the
# compiler report through tests/emu/fault.cc
set(EMU_OPTIONS -std=gnu++17 -O2 -g1 -fno-strict-aliasing -ffp-contract=off -Wno-conversion -Wno-shadow -Wno-unknown-pragmas
                -Wno-unused-function -Wno-sign-compare -Wno-missing-field-initializers)
set(EMU_CHECKS -fsanitize=alignment,bounds)

function(helix_emulated target)
  target_compile_definitions(${target} PRIVATE HX_EMULATED)
  target_include_directories(${target} BEFORE PRIVATE ${PROJECT_SOURCE_DIR}/tests/emu/include ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${EMU_OPTIONS}>)
endfunction()

file(GLOB sources CONFIGURE_DEPENDS emu/*.cc)
list(FILTER sources EXCLUDE REGEX "/(gemm|nccl|test_[a-z_]*)\\.cc$")
add_library(helix_emu_runtime OBJECT ${sources})
helix_emulated(helix_emu_runtime)
target_link_libraries(helix_emu_runtime PUBLIC Threads::Threads ${CMAKE_DL_LIBS})

file(GLOB c_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/backends/cuda/*.c ${PROJECT_SOURCE_DIR}/dist/comm/nccl*.c
     ${PROJECT_SOURCE_DIR}/launch/cuda_plugin.c)
list(FILTER c_sources EXCLUDE REGEX "/cuda/gemm\\.c$")
file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/backends/cuda/*.cu)
# the language is CXX in this folder only: the plug-in's own build has another for the same files
set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${EMU_CHECKS};-x;c++")
add_library(helix_emu SHARED ${c_sources} ${kernels} emu/gemm.cc emu/nccl.cc)
helix_emulated(helix_emu)
target_compile_definitions(helix_emu PRIVATE HX_HAVE_NCCL=1 OMPI_SKIP_MPICXX)
target_link_libraries(helix_emu PRIVATE helix_emu_runtime PkgConfig::OPENBLAS MPI::MPI_C)

add_executable(emu_runtime emu/test_runtime.cc)
helix_emulated(emu_runtime)
target_compile_options(emu_runtime PRIVATE ${EMU_CHECKS})
target_link_libraries(emu_runtime PRIVATE helix_emu_runtime helix_static)
add_test(NAME emu/runtime COMMAND emu_runtime)
set_tests_properties(emu/runtime PROPERTIES LABELS emu TIMEOUT 300)

# The battery on the emulated device: every tensor between guard pages, every kernel in two orders.
foreach(program conformance_ops conformance_dtypes conformance_errors conformance_parts conformance_add_norm)
  string(REPLACE "conformance_" "" name ${program})
  add_test(NAME emu/${name} COMMAND ${program} -j1)
  set_tests_properties(emu/${name} PROPERTIES LABELS emu TIMEOUT 1800
    ENVIRONMENT "HELIX_TEST_BACKEND=cuda;HELIX_CUDA_PLUGIN=$<TARGET_FILE:helix_emu>;HELIX_ALLOC=exact;HELIX_EMU_CHECK=1;HELIX_EMU_SEED=1")
endforeach()

add_executable(emu_kernels emu/kernels.c conformance/battery.c conformance/cases.c)
target_compile_definitions(emu_kernels PRIVATE CONF_NO_RUNNER)
target_link_libraries(emu_kernels PRIVATE helix_static)
foreach(file norm.cu all)
  string(REPLACE ".cu" "" name ${file})
  add_test(NAME emu/plant/${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/emu/plant.sh $<TARGET_FILE:emu_kernels> ${file})
  set_tests_properties(emu/plant/${name} PROPERTIES LABELS emu TIMEOUT 1800 SKIP_RETURN_CODE 77
    ENVIRONMENT "HELIX_CUDA_PLUGIN=$<TARGET_FILE:helix_emu>")
endforeach()

file(GLOB sources CONFIGURE_DEPENDS emu/test_*.c)
list(FILTER sources EXCLUDE REGEX "/test_(comm|ddp)\\.c$")
foreach(source ${sources})
  get_filename_component(name ${source} NAME_WE)
  string(REGEX REPLACE "^test_" "" name ${name})
  add_executable(emu_${name} ${source})
  target_link_libraries(emu_${name} PRIVATE helix_static PkgConfig::CRITERION)
  add_dependencies(emu_${name} helix_emu)
  add_test(NAME emu/${name} COMMAND emu_${name} -j1)
  set_tests_properties(emu/${name} PROPERTIES LABELS emu TIMEOUT 300
                       ENVIRONMENT "HELIX_CUDA_PLUGIN=$<TARGET_FILE:helix_emu>;HELIX_EMU_GPUS=2")
endforeach()

# Programs of several ranks, each with an emulated GPU: an entry for each Test() and number of ranks, as in tests/mpi.
function(helix_emu_ranks name)
  add_executable(emu_${name} emu/test_${name}.c)
  target_link_libraries(emu_${name} PRIVATE helix_static helix_test_support PkgConfig::CRITERION)
  add_dependencies(emu_${name} helix_emu)
  file(STRINGS emu/test_${name}.c tests REGEX "^Test\\(")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS emu/test_${name}.c)
  foreach(test ${tests})
    string(REGEX REPLACE "^Test\\(([a-z0-9_]+), *([a-z0-9_]+).*" "\\1/\\2" filter ${test})
    foreach(np 1 2 3)
      add_test(NAME emu/${filter}/np${np} COMMAND ${mpirun} -n ${np} $<TARGET_FILE:emu_${name}> --filter ${filter} -j1)
      set_tests_properties(emu/${filter}/np${np} PROPERTIES LABELS emu TIMEOUT 120
        ENVIRONMENT "HELIX_CUDA_PLUGIN=$<TARGET_FILE:helix_emu>;HELIX_EMU_CHECK=1;HELIX_EMU_SEED=${np}")
    endforeach()
  endforeach()
endfunction()
helix_emu_ranks(comm)
helix_emu_ranks(ddp)
