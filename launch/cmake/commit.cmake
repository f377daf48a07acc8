# cmake -D SOURCE=DIR -D OUT=FILE -P commit.cmake: a header with the commit of the sources. It runs with each build and
# touches the header only if the commit is another one, so that one small file is compiled again, and only then.
execute_process(COMMAND git describe --always --dirty WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit ERROR_QUIET
                OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
if(failed OR NOT commit MATCHES "^[A-Za-z0-9._/-]+$")
  set(commit unknown)
endif()
set(text "#define HELIX_COMMIT \"${commit}\"\n")
if(EXISTS ${OUT})
  file(READ ${OUT} before)
endif()
if(NOT "${before}" STREQUAL "${text}")
  file(WRITE ${OUT} "${text}")
endif()
