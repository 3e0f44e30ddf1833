# SPDX-License-Identifier: Apache-2.0
# Flags that all of our own targets share: link to cardea_options.
add_library(cardea_options INTERFACE)
target_compile_options(cardea_options INTERFACE
  -Wall -Wextra -Wshadow
  $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>
  $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers>
  $<$<BOOL:${CARDEA_WARNINGS_AS_ERRORS}>:-Werror>
  # gcc 13 takes what fmt 9 and its own string functions inline for accesses out of bounds.
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>,$<VERSION_GREATER_EQUAL:$<CXX_COMPILER_VERSION>,13>>:-Wno-error=array-bounds;-Wno-error=stringop-overflow;-Wno-error=stringop-overread>)
if(CARDEA_SANITIZE)
  target_compile_options(cardea_options INTERFACE -fsanitize=${CARDEA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(cardea_options INTERFACE -fsanitize=${CARDEA_SANITIZE})
  if(CARDEA_SANITIZE MATCHES undefined)
    target_compile_definitions(cardea_options INTERFACE CARDEA_SANITIZE_UNDEFINED)  # which no compiler tells of
  endif()
  # gcc warns that TSan does not model atomic_thread_fence, which Boost.Asio uses for its own locks.
  target_compile_options(cardea_options INTERFACE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-tsan>)
endif()
if(CARDEA_FUZZ)
  # Counts what runs, for the fuzzer that the targets are linked with (tests/fuzz).
  target_compile_options(cardea_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# ccache, where it is installed. It can vouch for precompiled headers only if told to overlook their times.
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  set(ccache ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE_PROGRAM})
  set(CMAKE_C_COMPILER_LAUNCHER ${ccache})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ccache})
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    target_compile_options(cardea_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  endif()
endif()
