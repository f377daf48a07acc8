# Finds what Helix is built on; what is missing is named together with the Debian package that brings it.
function(helix_missing what package)
  message(FATAL_ERROR "\n${what} was not found. On Debian or Ubuntu:  apt-get install ${package}\n"
                      "(./launch/quickstart.sh installs everything that is missing.)")
endfunction()

find_package(PkgConfig)
if(NOT PKG_CONFIG_FOUND)
  helix_missing("pkg-config" pkg-config)
endif()
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

find_package(MPI COMPONENTS C QUIET)
if(NOT MPI_C_FOUND)
  helix_missing("MPI (mpicc)" "libopenmpi-dev openmpi-bin")
elseif(MPI_C_VERSION VERSION_LESS 3.1)
  message(FATAL_ERROR "MPI 3.1 or later is needed; this one says ${MPI_C_VERSION}")
endif()

# name, pkg-config module(s), Debian package
macro(helix_pkg var modules package)
  pkg_check_modules(${var} IMPORTED_TARGET QUIET GLOBAL ${modules})
  if(NOT ${var}_FOUND)
    helix_missing("${modules}" ${package})
  endif()
endmacro()
# the parallel HDF5 has a module of its own on Debian and Ubuntu; the plain name would find a serial one
helix_pkg(HDF5 hdf5-openmpi libhdf5-openmpi-dev)
helix_pkg(OPENBLAS openblas libopenblas-dev)
helix_pkg(FFTW "fftw3;fftw3f" libfftw3-dev)
helix_pkg(YAML yaml-0.1 libyaml-dev)
helix_pkg(JANSSON jansson libjansson-dev)
helix_pkg(XXHASH libxxhash libxxhash-dev)
helix_pkg(PCRE2 libpcre2-8 libpcre2-dev)
helix_pkg(HWLOC hwloc libhwloc-dev)

# Sets HELIX_HAS_CUDA: whether the plug-in for NVIDIA GPUs is built.
set(HELIX_HAS_CUDA OFF)
if(HELIX_SANITIZE AND NOT HELIX_CUDA STREQUAL "ON")
  message(STATUS "CUDA plug-in: no; nvcc knows no sanitizers of the host")
elseif(NOT HELIX_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    find_package(CUDAToolkit 12.5 QUIET) # cudaGetDriverEntryPointByVersion
  endif()
  if(TARGET CUDA::cublasLt)
    set(HELIX_HAS_CUDA ON)
  elseif(HELIX_CUDA STREQUAL "ON")
    message(FATAL_ERROR "\nHELIX_CUDA=ON, but a CUDA toolkit, version 12.5 or later, with a working nvcc and cuBLASLt was not found: put nvcc "
                        "on the PATH, or set CUDACXX.")
  else()
    message(STATUS "CUDA plug-in: no; there is no CUDA compiler of version 12.5 or later with cuBLASLt")
  endif()
endif()
