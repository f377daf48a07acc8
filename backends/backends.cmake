# The cpu backend's kernels are compiled once per instruction set; the best one the machine has is chosen at run time.
# Files of backends/cpu/kernels/ see HX_ISA (generic, avx2, avx512, avx512bf16) and name their table with it.
file(GLOB_RECURSE sources CONFIGURE_DEPENDS backends/*.c)
list(FILTER sources EXCLUDE REGEX "/backends/(cpu/kernels|cuda)/")
file(GLOB kernel_sources CONFIGURE_DEPENDS backends/cpu/kernels/*.c)
add_library(helix_backends OBJECT ${sources})
target_include_directories(helix_backends PUBLIC ${PROJECT_SOURCE_DIR})
target_link_libraries(helix_backends PUBLIC PkgConfig::OPENBLAS PkgConfig::FFTW m)

set(isas generic)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|amd64|AMD64")
  list(APPEND isas avx2 avx512 avx512bf16) # compiled for the levels v3 and v4 of the x86-64 ABI, which hold them and what came with them
  set(isa_flags_avx2 -march=x86-64-v3 -mprefer-vector-width=512)
  set(isa_flags_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
  set(isa_flags_avx512bf16 ${isa_flags_avx512} -mavx512bf16)
  target_compile_definitions(helix_backends PRIVATE HX_HAVE_X86_LEVELS=1)
endif()
if(kernel_sources)
  foreach(isa ${isas})
    add_library(helix_kernels_${isa} OBJECT ${kernel_sources})
    target_include_directories(helix_kernels_${isa} PRIVATE ${PROJECT_SOURCE_DIR})
    target_link_libraries(helix_kernels_${isa} PRIVATE PkgConfig::OPENBLAS)
    target_compile_definitions(helix_kernels_${isa} PRIVATE HX_ISA=${isa})
    # -ffp-contract keeps fused multiply-adds; -fopenmp-simd only enables the simd pragmas, no OpenMP runtime
    target_compile_options(helix_kernels_${isa} PRIVATE -O3 -fopenmp-simd -fno-trapping-math)
    # clang warns of every simd pragma that it cannot follow, and of rows of the table that leave their last fields zero
    target_compile_options(helix_kernels_${isa} PRIVATE $<$<C_COMPILER_ID:Clang>:-Wno-pass-failed;-Wno-missing-field-initializers>)
    target_compile_options(helix_kernels_${isa} PRIVATE ${isa_flags_${isa}})
    list(APPEND HELIX_KERNEL_OBJECTS helix_kernels_${isa})
  endforeach()
endif()
