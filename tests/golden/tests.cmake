# The numbers lie beside the tests; nothing of PyTorch is needed to read them.
file(GLOB golden_sources golden/test_*.c)
foreach(source ${golden_sources})
  get_filename_component(name ${source} NAME_WE)
  string(REGEX REPLACE "^test_" "" name ${name})
  target_sources(golden_${name} PRIVATE golden/golden.c)
  target_compile_definitions(golden_${name} PRIVATE HELIX_GOLDEN_FILE="${CMAKE_CURRENT_SOURCE_DIR}/golden/golden.h5"
                             HELIX_GOLDEN_FOLDER="${CMAKE_CURRENT_SOURCE_DIR}/golden")
endforeach()

add_executable(golden_ckpt_make golden/ckpt_make.c)
target_link_libraries(golden_ckpt_make PRIVATE helix_static)
target_compile_definitions(golden_hf PRIVATE HELIX_GOLDEN_HF="${CMAKE_CURRENT_SOURCE_DIR}/golden/hf")
