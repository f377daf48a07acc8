# The programs as a user meets them: bash scripts over the helix binary, and the examples.
# A script gets the path of helix and a folder of its own, which is empty when it starts.
file(GLOB scripts CONFIGURE_DEPENDS e2e/test_*.sh)
foreach(script ${scripts})
  get_filename_component(name ${script} NAME_WE)
  string(REGEX REPLACE "^test_" "" name ${name})
  add_test(NAME e2e/${name} COMMAND ${script} $<TARGET_FILE:helix> ${CMAKE_CURRENT_BINARY_DIR}/e2e_${name})
  set_tests_properties(e2e/${name} PROPERTIES LABELS e2e TIMEOUT 180)
endforeach()

set_tests_properties(e2e/tokenize PROPERTIES TIMEOUT 3600) # its long form: Hugging Face's tokenizers learn twice
set_tests_properties(e2e/elastic PROPERTIES TIMEOUT 900) # its long form
set_tests_properties(e2e/ckpt_kill PROPERTIES TIMEOUT 3600) # its long form: every call of a save
set_tests_properties(e2e/bf16 PROPERTIES TIMEOUT 1800)   # the same
set_tests_properties(e2e/data PROPERTIES TIMEOUT 600)    # the same

foreach(tour tensor_tour autograd_tour)
  add_test(NAME e2e/example_${tour} COMMAND example_${tour})
  set_tests_properties(e2e/example_${tour} PROPERTIES LABELS e2e TIMEOUT 60)
endforeach()
foreach(np 1 2)
  foreach(example act_checkpoint amp_train)
    add_test(NAME e2e/example_${example}/np${np} COMMAND ${mpirun} -n ${np} $<TARGET_FILE:example_${example}>)
    set_tests_properties(e2e/example_${example}/np${np} PROPERTIES LABELS e2e TIMEOUT 60)
  endforeach()
  foreach(example train_own_model image_classifier) # those that leave a run's folder
    add_test(NAME e2e/example_${example}/np${np}
             COMMAND sh -c "rm -rf ${example}_np${np} && exec \"$@\" --out=${example}_np${np}" sh
                     ${mpirun} -n ${np} $<TARGET_FILE:example_${example}>)
    set_tests_properties(e2e/example_${example}/np${np} PROPERTIES LABELS e2e TIMEOUT 60)
  endforeach()
endforeach()
# a model with batch norm, over the samples of both ranks, in micro-batches of which the ranks have different numbers
add_test(NAME e2e/example_image_classifier/sync_batchnorm
         COMMAND sh -c "rm -rf image_classifier_sync && exec \"$@\" --out=image_classifier_sync" sh
                 ${mpirun} -n 2 $<TARGET_FILE:example_image_classifier> --ddp.sync_batchnorm --train.batch=30 --train.micro_batch=7
                 --train.check_replicas=5)
set_tests_properties(e2e/example_image_classifier/sync_batchnorm PROPERTIES LABELS e2e TIMEOUT 60)

# Whole programs on the emulated GPU, one or two of them, under three orders of the device's work.
if(TARGET helix_emu)
  foreach(variant 1:auto 2:staged 2:nccl)
    string(REPLACE ":" ";" words ${variant})
    list(GET words 0 np)
    list(GET words 1 comm)
    add_test(NAME emu/train/${comm}/np${np} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/e2e/cuda_train.sh $<TARGET_FILE:helix>
             ${CMAKE_CURRENT_BINARY_DIR}/e2e_cuda_${comm}_np${np} ${np} ${comm} 1 2 3)
    set_tests_properties(emu/train/${comm}/np${np} PROPERTIES LABELS emu TIMEOUT 600
                         ENVIRONMENT HELIX_CUDA_PLUGIN=$<TARGET_FILE:helix_emu>)
  endforeach()
endif()
