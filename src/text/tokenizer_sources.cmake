# The tokenizer, the detokenizer and the generation defaults.
set(Boost_USE_STATIC_LIBS ON)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_library(WEIR_PCRE2 NAMES libpcre2-8.a REQUIRED)
find_library(WEIR_UTF8PROC NAMES libutf8proc.a REQUIRED)

set(WEIR_TOKENIZER_SOURCES
  detokenizer.cpp generation.cpp split.cpp split_syntax.cpp token_table.cpp tokenizer.cpp tokenizer_added.cpp
  tokenizer_alphabet.cpp tokenizer_bpe.cpp tokenizer_json.cpp unicode.cpp unicode_tables.cpp)
set(WEIR_TOKENIZER_LIBRARIES Boost::json ${WEIR_PCRE2} ${WEIR_UTF8PROC})
