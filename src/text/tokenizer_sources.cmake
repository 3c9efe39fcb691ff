# The tokenizer, the detokenizer and the generation defaults.
set(Boost_USE_STATIC_LIBS ON)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_library(WEIR_PCRE2 NAMES libpcre2-8.a REQUIRED)
find_library(WEIR_UTF8PROC NAMES libutf8proc.a REQUIRED)

set(WEIR_TOKENIZER_SOURCES
  detokenizer.cpp generation.cpp model_file.cpp split.cpp split_syntax.cpp token_table.cpp tokenizer.cpp tokenizer_added.cpp
  tokenizer_alphabet.cpp tokenizer_bpe.cpp tokenizer_json.cpp unicode.cpp unicode_tables.cpp)
set(WEIR_TOKENIZER_LIBRARIES Boost::json ${WEIR_PCRE2} ${WEIR_UTF8PROC})

# The tokenizer's test, its fuzzer, and the driver of the differential fuzz.
function(weir_tokenizer_programs)
  set_source_files_properties(unicode.cpp PROPERTIES COMPILE_DEFINITIONS UTF8PROC_STATIC)
  weir_fuzzer(tokenizer_fuzz SOURCES tokenizer_fuzz.cpp ROOMS text)
  if(NOT WEIR_TESTS)
    return()
  endif()
  # Not a test: encodes and decodes for tools/oracles/tokenizer_fuzz.py.
  add_executable(tokenizer_driver tokenizer_driver.cpp)
  target_link_libraries(tokenizer_driver PRIVATE weir_text)
  find_program(WEIR_XZ xz REQUIRED)
  set(packed "${PROJECT_SOURCE_DIR}/tests/data/tokenizer/qwen3_tokenizer.json.xz")
  set(unpacked "${CMAKE_CURRENT_BINARY_DIR}/qwen3_tokenizer.json")
  add_custom_command(
    OUTPUT "${unpacked}"
    COMMAND "${WEIR_XZ}" -dkc "${packed}" > "${unpacked}"
    DEPENDS "${packed}"
    VERBATIM)
  add_custom_target(weir_qwen3_tokenizer DEPENDS "${unpacked}")
  weir_test(tokenizer_test
    SOURCES detokenizer_test.cpp generation_test.cpp split_test.cpp tokenizer_json_test.cpp tokenizer_test.cpp
    ROOMS text)
  if(TARGET tokenizer_test)
    add_dependencies(tokenizer_test weir_qwen3_tokenizer)
    target_compile_definitions(tokenizer_test PRIVATE WEIR_QWEN3_TOKENIZER="${unpacked}")
  endif()
endfunction()
