# libhelix_cuda.so, the plug-in for NVIDIA GPUs: backends/cuda, NCCL's side of dist/comm, and one entry. It contains nothing of
# libhelix: what it calls there it finds in the program, or in libhelix.so, that opens it.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100-real 100-virtual) # later ones compile the last for themselves
endif()
set(CMAKE_CUDA_STANDARD 17)
enable_language(CUDA)

file(GLOB sources CONFIGURE_DEPENDS backends/cuda/*.c backends/cuda/*.cu)
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(NCCL_INCLUDE_DIR)
  file(GLOB nccl_sources CONFIGURE_DEPENDS dist/comm/nccl*.c)
endif()
add_library(helix_cuda SHARED ${sources} ${nccl_sources} launch/cuda_plugin.c)
target_include_directories(helix_cuda PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(helix_cuda PRIVATE CUDA::cudart CUDA::cublasLt Threads::Threads ${CMAKE_DL_LIBS})
if(nccl_sources)
  target_compile_definitions(helix_cuda PRIVATE HX_HAVE_NCCL=1)
  target_include_directories(helix_cuda SYSTEM PRIVATE ${NCCL_INCLUDE_DIR})
endif()
target_compile_options(helix_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-fno-math-errno>")
# CMake leaves out folders that nvcc searches by itself, but the loader does not search them; libraries in a folder of stubs
# are for linking only
get_target_property(library CUDA::cublasLt IMPORTED_LOCATION)
get_filename_component(library_dir "${library}" DIRECTORY)
string(REGEX REPLACE "/stubs$" "" library_dir "${library_dir}")
set_target_properties(helix_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Shared C_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
                      BUILD_RPATH "${library_dir}" INSTALL_RPATH "$ORIGIN;${library_dir}")
message(STATUS "CUDA plug-in: ${CMAKE_CUDA_COMPILER} for ${CMAKE_CUDA_ARCHITECTURES}")
