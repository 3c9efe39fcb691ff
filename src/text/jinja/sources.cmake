# Sources of the template engine, for the list of the room `text`.
set(WEIR_TEMPLATE_SOURCES
  chat.cpp
  template.cpp
  jinja/attributes.cpp
  jinja/evaluator_calls.cpp
  jinja/evaluator_expressions.cpp
  jinja/evaluator_loops.cpp
  jinja/evaluator_statements.cpp
  jinja/filters.cpp
  jinja/filters_selection.cpp
  jinja/filters_sequence.cpp
  jinja/filters_text.cpp
  jinja/formatting.cpp
  jinja/from_json.cpp
  jinja/globals.cpp
  jinja/lexer.cpp
  jinja/methods.cpp
  jinja/operators.cpp
  jinja/parser.cpp
  jinja/parser_expressions.cpp
  jinja/predicates.cpp
  jinja/runtime.cpp
  jinja/show.cpp
  jinja/unicode.cpp
  jinja/unicode_tables.cpp
  jinja/value.cpp)

# Chat templates and the programs that check them.
function(weir_template_programs)
  weir_test(template_test SOURCES template_test.cpp ROOMS text)
  weir_test(template_goldens_test SOURCES template_goldens_test.cpp ROOMS text)
  weir_test(chat_test SOURCES chat_test.cpp ROOMS text)
  weir_fuzzer(template_fuzz SOURCES template_fuzz.cpp ROOMS text)
  if(WEIR_TESTS)
    # Not a test: renders lines of JSON for tools/oracles/template_fuzz.py.
    add_executable(template_driver template_driver.cpp)
    target_link_libraries(template_driver PRIVATE weir_text weir_options)
  endif()
endfunction()
