#!/usr/bin/env python3
"""Writes tests/data/templates/language.json: snippets of the template language and what jinja2 makes of each.

Usage: template_language.py [--check DRIVER]; with --check nothing is written, and the program template_driver must
give the same for every snippet.
"""
import json
import pathlib
import subprocess
import sys

from template_env import environment, outcome
from template_goldens import agrees

OUT = pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "data" / "templates" / "language.json"

CONTEXT = {
    "s": "Hello World", "u": "h\u00e9llo \u4e16\u754c \U0001f600", "e": "", "ws": " \t\u00a0x y\u2003\n", "n": 7, "z": 0,
    "neg": -3, "f": 2.5, "big": 18446744073709551615, "t": True, "no": False, "none_": None, "html": "<a href=\"x\">&'",
    "lst": [3, 1, 2], "words": ["b", "A", "c", "a"], "mixed": [1, "a", None, 2.0, True], "nested": [[1, 2], [3], []],
    "d": {"b": 2, "a": 1, "items": "shadow", "_p": 5}, "empty": {}, "lines": "one\n two\n\nthree\r\nfour",
    "users": [{"name": "Bob", "age": 30, "tags": ["x"]}, {"name": "al", "age": 25, "tags": []},
              {"name": "Cy", "age": 30}],
    "deep": {"a": {"b": [{"c": "found"}]}},
}

# Expressions, one a line.
EXPRESSIONS = r"""
1 + 2 * 3
(1 + 2) * 3
7 / 2
7 // 2
-7 // 2
7 % 3
-7 % 3
7 % -3
7.5 // 2
-7.5 % 2
2 ** 10
2 ** -1
2 ** 3 ** 2
-2 ** 2
1 / 0
1 // 0
1 % 0
1.0 / 0
0.1 + 0.2
1e16
1e15
1e-5
0.0001
1.5e300 * 1e10
100000000000000000000
2 ** 100
1_000
0x1F
0b101
0o17
1_0.5_0
5.0
-0.0
true + true
not true
not not 1
+true
-true
-s
1 < 2 < 3
1 < 3 < 2
1 == 1.0 == true
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
[1] == [1.0]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1.0}
none == none
none < 1
1 in [1, 2]
1 not in [1, 2]
'a' in 'abc'
1 in 'abc'
'a' in d
'x' in d
[1] in d
1 in none
1 in missing
missing in [1]
missing == other_missing
missing == none
missing != 1
missing < 1
1 and 0
0 or 'x'
'' or e or 'last'
1 and 2
missing and 1
missing or 1
'x' if t else 'y'
'x' if no
('x' if no) is defined
'x' if no else 'y' if no else 'z'
s ~ n ~ none ~ missing ~ 1.0
'a' 'b' "c"
'a' + 1
1 + 'a'
'a' * 3
3 * 'a'
'a' * -1
[1] * 2
[1] + [2]
(1,) + (2,)
[1] + (2,)
s + missing
missing + 1
s[0]
s[-1]
s[99]
s[99] is defined
u[6]
u[-1]
u|length
s[1:4]
s[:-3]
s[::-1]
s[::2]
u[::-1]
u[2:8]
lst[1:]
lst[::-1]
lst[-2:]
lst[5:]
lst[::0]
lst['a':]
none_[1:]
d[1:]
lst[0]
lst[-1]
lst[3]
lst[true]
lst['x']
lst.0
lst.x
nested.0.1
nested[0][1]
d.a
d['a']
d.missing
d.missing.more
d['missing']
d[none]
d.items is callable
d['items']
d.items()
d.keys()
d.values()
d.items()|list
d.items()[0]
d.get('a')
d.get('x')
d.get('x', 5)
d.get is defined
d._p
d.__class__
s.__class__
s._x
''.__class__.__mro__
d.pop('a')
d.update({})
lst.append(4)
lst.pop is defined
lst.index(1)
lst.count(1)
deep.a.b[0].c
deep.a.x.c
none.x
n.x
none.x is defined
n()
s()
missing()
missing.x
missing['x']
missing|length
missing|list
missing|upper
missing|int
missing|default('dflt')
missing|d
none_|default('x')
none_|default('x', true)
''|default('x', boolean=true)
[missing]
{'a': missing}
(1,)
()
(1, 'a', none)
[1, 'it''s', "it's", 'say "x"', "both ' \" q"]
['\n\t\\', 'é', '\x01', '\u200b', '\U0001f600', '\x7f']
{'a': [1, {'b': (2,)}], 1: 2, none: 3}
[1.0, 1e100, -0.5, true, none]
'\x41\u00e9\101\q\
end'
'a\'b'
"a\"b"
u
mixed
big
big + 1
big|tojson
s.upper()
s.lower()
u.upper()
'straße ǆ ﬁ İ'.upper()
'STRASSE İ Ǆ'.lower()
'ǆ hello wORLD'.title()
'ǆ hello'.capitalize()
'hELLO'.swapcase()
"they're bill's".title()
"they're bill's (x) a-b"|title
'hello world'|title
s|capitalize
ws.strip()|tojson
ws.lstrip()|tojson
ws.rstrip()|tojson
'xxhixx'.strip('x')
'xyhixy'.strip('yx')
'xxhixx'.lstrip('x')
'xxhixx'.rstrip('x')
'xx'.strip(none)
'a,b,,c'.split(',')
'a,b,,c'.split(',', 1)
'a,b,,c'.rsplit(',', 1)
'  a  b c '.split()
'  a  b c '.split(none, 1)
'  a  b c '.rsplit(none, 1)
'  a  b c '.split(maxsplit=1)
''.split()
''.split(',')
'a'.split('')
'a</think>b'.split('</think>')[-1]
lines.splitlines()
lines.splitlines(true)
'a=b=c'.partition('=')
'a=b=c'.rpartition('=')
'abc'.partition('x')
'abc'.rpartition('x')
s.startswith('Hello')
s.startswith(('x', 'He'))
s.startswith('World', 6)
s.endswith('ld')
s.endswith('lo', 0, 5)
s.startswith(1)
s.replace('l', 'L')
s.replace('l', 'L', 1)
s.replace('', '-')
s.replace('o', '')
u.replace('', '.')
s.find('o')
s.find('o', 5)
s.find('zz')
u.find('世')
s.rfind('o')
s.index('zz')
s.index('W')
s.count('l')
s.count('')
s.count('o', 5)
', '.join(words)
', '.join([1])
'-'.join('abc')
s.removeprefix('Hello ')
s.removesuffix('World')
'12'.isdigit()
'1a'.isdigit()
''.isdigit()
'ab'.isalpha()
'a1'.isalnum()
' '.isspace()
'AB'.isupper()
'ab1'.islower()
'7'.zfill(3)
'-7'.zfill(4)
'a'.ljust(3)|tojson
'a'.rjust(3, '.')
'ab'.center(5, '*')
'abc'.center(6, '*')
'{} {}'.format(1, 'a')
'{1} {0} {x}'.format(1, 'a', x=2)
'{0.name} {0[age]}'.format(users[0])
'{:>5}|{:<5}|{:^5}|{:05d}|{:,}|{:.2f}|{:x}|{:%}'.format('a', 'b', 'c', 42, 1234567, 3.14159, 255, 0.25)
'{!r} {{}}'.format('q')
'{}'.format()
'{'.format(1)
'%s and %d and %.2f and %r' % ('a', 5, 1.5, 'q')
'%5s|%-5s|%05d|%x|%%' % ('a', 'b', 42, 255)
'%(a)s' % d
'%s' % 'x'
'%s %s' % ('x',)
'%d' % 'x'
'%s' % (1, 2)
'%s-%s'|format(1, 2)
s|upper
s|lower
s|length
s|count
lst|length
d|length
n|length
none|length
s|list
d|list
n|list
lst|first
lst|last
[]|first
[]|last
s|first
s|last
d|first
missing|first
lst|sort
lst|sort(reverse=true)
words|sort
words|sort(case_sensitive=true)
users|sort(attribute='age')|map(attribute='name')|join(',')
users|sort(attribute='age,name')|map(attribute='name')|list
mixed|sort
d|dictsort
d|dictsort(reverse=true)
{'b': 1, 'A': 2}|dictsort
{'b': 1, 'A': 2}|dictsort(true)
{'b': 1, 'A': 2}|dictsort(by='value')
{'b': 1}|dictsort(by='x')
lst|reverse|list
s|reverse
d|reverse|list
lst|join
lst|join('-')
users|join(', ', attribute='name')
n|join
missing|join('x')
mixed|join('|')
lst|sum
lst|sum(start=10)
users|sum(attribute='age')
words|sum
[1.5, 2]|sum
[]|sum
lst|min
lst|max
[]|min
words|min
words|max
users|max(attribute='age')
mixed|max
['a', 'A', 'b']|unique|list
['a', 'A', 'b']|unique(case_sensitive=true)|list
[[1]]|unique|list
words|map('upper')|list
words|map('replace', 'a', 'x')|list
users|map(attribute='name')|list
users|map(attribute='tags.0')|list
users|map(attribute='tags', default='none')|list
users|map(attribute='nope')|list
words|map('nope')|list
words|map|list
words|select|list
mixed|select('string')|list
mixed|reject('none')|list
lst|select('>', 1)|list
lst|select('gt', 1)|list
lst|select('odd')|list
users|selectattr('tags')|map(attribute='name')|list
users|selectattr('age', 'equalto', 30)|map(attribute='name')|list
users|rejectattr('age', 'eq', 30)|map(attribute='name')|list
users|selectattr('tags', 'defined')|list|length
(users|selectattr('age', 'gt', 99)) is defined
'yes' if users|selectattr('age', 'gt', 99) else 'no'
(lst|select('odd'))|length
(lst|map('string'))[0]
lst|batch(2)|list
lst|batch(2, 'x')|list
lst|slice(2)|list
lst|slice(2, 'x')|list
users|groupby('age')|length
users|groupby('age')|map(attribute='grouper')|list
users|groupby('age')|map('first')|list
users|groupby('tags', default='')|length
d|items|list
missing|items|list
n|items|list
n|items|first
s|replace('l', 'L')
s|replace('l', 'L', 2)
n|replace(7, 8)
'  x '|trim|tojson
'xxaxx'|trim('x')
n|trim
lines|indent
lines|indent(2)
lines|indent('> ', true)
lines|indent(2, first=true, blank=true)
n|indent
s|wordcount
u|wordcount
s|truncate(8)
s|truncate(8, true)
s|truncate(9, leeway=0)
s|truncate(1)
s|center(20)|tojson
'42'|int
'42.7'|int
' 42 '|int
'x'|int
'x'|int(5)
'0x1F'|int(base=16)
'1_000'|int
'1e3'|int
2.9|int
-2.9|int
true|int
none|int
lst|int
'3.5'|float
'x'|float
'x'|float(1.5)
'inf'|float
'1_0.5'|float
3|float
none|float
-5|abs
-5.5|abs
'x'|abs
2.5|round
3.5|round
2.675|round(2)
42.55|round(1, 'floor')
42.55|round(1, 'ceil')
42|round
1234|round(-2)
1250|round(-2)
'x'|round
2.5|round(0, 'bad')
n|string
none|string
lst|string
html|e
html|escape|escape
html|e|safe
html|safe
html|forceescape
(html|safe) + '<b>'
'<b>' + (html|safe)
(html|safe) ~ '<b>'
'<'|e ~ '<'
(('<'|e) + '<')|length
[('<'|safe)]
('<'|safe).upper() + '>'
('a<'|safe).replace('a', '<')
('<p>'|attr('upper'))()
s|attr('nope')
d|attr('a')
{'a': 1}|tojson
u|tojson
u|tojson(ensure_ascii=true)
'"\\/\n\r\t\b\f\x01\x7f'|tojson
'<>&\''|tojson
[1, 1.0, 1e16, true, none, 'x', [], {}]|tojson
{'a': [1, {'b': 2}], 'c': {}}|tojson(indent=2)
[1, [2]]|tojson(indent='--')
{'b': 1, 'a': 2}|tojson(sort_keys=true)
{'b': 1, 'a': 2}|tojson(separators=(',', ':'))
{1: 2, true: 3, none: 4, 1.5: 5}|tojson
{(1,): 2}|tojson
missing|tojson
(1, 2)|tojson
('inf'|float)|tojson
(lst|map('string'))|tojson
range(3)
range(3)|list
range(1, 10, 3)|list
range(5, 0, -2)|list
range(0, 5, 0)
range('a')
range(3)[1]
range(3)|length
range(100001)
range(10) is sequence
dict(a=1, b=2)
dict({'a': 1}, b=2)
dict([('a', 1)])
dict(1)
namespace(a=1).a
namespace(a=1).b
namespace(a=1)['a']
namespace({'x': 1}).x
joiner('|')() ~ 'x'
strftime_now('%Y-%m-%d')
strftime_now('%d %B %Y, %H:%M:%S %A %j')
raise_exception('stop: ' ~ s)
missing is defined
missing is undefined
s is defined
none is none
none is not none
s is string
n is string
n is number
t is number
n is integer
t is integer
f is float
t is boolean
d is mapping
lst is mapping
lst is iterable
s is iterable
n is iterable
missing is iterable
d is iterable
lst is sequence
d is sequence
s is sequence
n is sequence
d.items() is sequence
(lst|map('string')) is iterable
(lst|map('string')) is sequence
range is callable
s.upper is callable
s is callable
t is true
1 is true
no is false
0 is false
3 is odd
3 is even
'x' is odd
9 is divisibleby 3
9 is divisibleby(2)
9 is divisibleby 0
n is eq 7
n is equalto(7)
n is ne 7
n is gt 3
n is ge 7
n is lt 3
n is le 3
n is lessthan 9
n is greaterthan 9
n is sameas n
none is sameas none
'a' is in 'abc'
4 is in lst
4 is not in lst
'abc' is lower
'ABC' is upper
'AbC' is lower
'x' is escaped
('x'|safe) is escaped
'upper' is filter
'nope' is filter
'odd' is test
n is nope
n|nope
n is odd and t
n is string or t
not n is string
n is defined is true
s is string and s|length > 3
n + 1 is odd
lst|length > 2 and s
-lst|length
-n|abs
(-n)|abs
n * 2|string
'a' ~ 1 + 2
1 ~ 2 * 3
'a' if n > 5 else 'b' ~ 'c'
not 1 == 2
[1, 2,]
{'a': 1,}
(1 + 2)
((1, 2), 3)
1, 2
s.split(' ')[0].upper()[1:3]
s | replace("World", "X") | upper | length
{'a': 1}.a
'abc'[1]
[1,2,3][1:][0]
d.items()|map('last')|list
dict(d, **{'z': 9})
'{}-{}'.format(*[1, 2])
'{a}'.format(**{'a': 5})
lst == lst|list
u == 'h\u00e9llo \u4e16\u754c \U0001f600'
s s
1 +
[1
foo(
'unclosed
a.b.
1..2
lst[
{'a' 1}
"""

# Whole templates.
TEMPLATES = [
    "{% if n > 5 %}big{% elif n > 3 %}mid{% else %}small{% endif %}",
    "{% if missing %}a{% endif %}b",
    "{% for x in lst %}{{ x }}{% endfor %}",
    "{% for x in lst %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for x in lst %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.depth }}{% endfor %}",
    "{% for x in lst %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in lst %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in lst if x > 1 %}{{ loop.index }}:{{ x }}:{{ loop.last }}:{{ loop.length }} {% endfor %}",
    "{% for x in lst if x > 1 %}{{ x }}{{ loop.nextitem }}{% else %}none{% endfor %}",
    "{% for x in [] %}a{% else %}empty{% endfor %}",
    "{% for x in missing %}a{% else %}empty{% endfor %}",
    "{% for x in n %}a{% endfor %}",
    "{% for x in none %}a{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}",
    "{% for a, b in nested %}{{ a }}{% endfor %}",
    "{% for c in u %}[{{ c }}]{% endfor %}",
    "{% for x in lst %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in lst %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %}",
    "{% for x in lst %}{% continue %}{% else %}E{% endfor %}",
    "{% for x in lst %}{% for y in lst %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in lst %}{% set y = x %}{% endfor %}{{ y }}",
    "{% set y = 0 %}{% for x in lst %}{{ y }}{% set y = x %}{{ y }};{% endfor %}{{ y }}",
    "{% set ns = namespace(y=0) %}{% for x in lst %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}",
    "{% set ns = namespace(stop=false) %}{% for x in lst if not ns.stop %}{{ x }}{% set ns.stop = true %}{% endfor %}",
    "{% set q.y = 1 %}",
    "{% set d.y = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a, b = [1] %}",
    "{% set (a, b), c = (1, 2), 3 %}{{ a }}{{ b }}{{ c }}",
    "{% set x %}block {{ n }}{% endset %}{{ x }}|{{ x|length }}",
    "{% set x | upper | replace('B', '-') %}block{% endset %}{{ x }}",
    "{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% for x in lst %}{% if x == 3 %}{% set r = x %}{% endif %}{{ r is defined }}{% endfor %}",
    "{% set s = s ~ '!' %}{{ s }}",
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, c=3) }}|{{ m(1, 2, 3) }}|{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=1) }}",
    "{% macro m(a, b=a ~ 'x') %}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}body {{ n }}{% endcall %}",
    "{% macro m() %}{% for x in lst %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(i) m() %}<{{ i }}>{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}",
    "{% macro m() %}{{ caller }}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(4) }}",
    "{% macro m() %}{{ later }}{% endmacro %}{% set later = 5 %}{{ m() }}",
    "{% macro m() %}{% set n = 1 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}",
    "{% macro m(x) %} {{ x }} {% endmacro %}{{ m(1) + 'y' }}{{ m(2)|trim }}{{ m.name }}",
    "{{ m }}{% macro m() %}{% endmacro %}{{ m }}",
    "{% for x in lst %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% filter upper %}abc {{ s }}{% endfilter %}",
    "{% filter replace('a', 'b')|upper %}aaa{% endfilter %}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}",
    "{% generation %}{{ s }}{% set g = 1 %}{% endgeneration %}{{ g }}",
    "{% print s, n %}",
    "{% raw %}{{ not }} {% parsed %}{% endraw %}",
    "a {%- raw -%}  x  {%- endraw -%} b",
    "a{# comment #}b",
    "a {#- comment -#} b",
    "a\n{# comment #}\nb",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc",
    "a\n  {%+ if true %}\n  b\n  {% endif +%}\nc",
    "a\n  {%- if true -%}\n  b\n  {%- endif -%}\nc",
    "a  {{- s -}}  b",
    "a\n  {{ s }}\n  b",
    "x {% if true %} y {% endif %} z",
    "  {% set a = 1 %}  {% set b = 2 %}\n{{ a }}{{ b }}\n",
    "{% if true %}\n\n\nx{% endif %}\n\n",
    "line\r\nnext\rlast\n",
    "{{ '\r\n'|length }}",
    "\u00a0{%- if true %}\u2003x{% endif -%}\u2003y",
    "{{ {'a': {'b': 1}}['a']['b'] }}",
    "{{ {'a': {}} }}",
    "{%if true%}tight{%endif%}{{s}}{{-s-}}",
    "{% for item in users recursive %}{{ item.name }}{{ loop(item.tags) }}{% endfor %}",
    "{% for x in [[1, [2]], [3]] recursive %}{{ x if x is number else '(' ~ loop(x) ~ ')' }}{{ loop.depth }}{% endfor %}",
    "{% for x in lst %}{{ loop(x) }}{% endfor %}",
    "{% set g = lst|map('string') %}{{ g|list }}{{ g|list }}",
    "{% set g = d|items %}{% for k, v in g %}{{ k }}{{ loop.last }}{% endfor %}",
    "{% set j = joiner(', ') %}{% for x in lst %}{{ j() }}{{ x }}{% endfor %}",
    "{% for g, m in users|groupby('age') %}{{ g }}:{{ m|map(attribute='name')|join('+') }};{% endfor %}",
    "{% for g in users|groupby('age') %}{{ g.grouper }}:{{ g.list|length }};{% endfor %}",
    "{% for x in lst %}{{ loop|length }}{% break %}{% endfor %}",
    "{% for loop in lst %}{% endfor %}",
    "{% if n is nope %}{% endif %}x",
    "{% if false %}{{ n|nope }}{% endif %}x",
    "{{ n|nope if false }}x",
    "{% if true %}{{ n|nope }}{% endif %}x",
    "{% set loop = 1 %}{{ loop }}",
    "{% if %}{% endif %}",
    "{% endif %}",
    "{% if true %}",
    "{% for x in lst %}",
    "{% unknown %}",
    "{% do lst %}",
    "{% break %}",
    "{{ }}",
    "{{ s",
    "{% set x %}",
    "{% raw %}x",
    "{# x",
    "{{ 'a' }",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% set 1 = 2 %}",
    "{% set s.x.y = 2 %}",
    "{{ m(a=1, 2) }}",
    "{% for x in range(3) %}{{ 'odd' if x is odd else 'even' }} {% endfor %}",
    "{% set x = [] %}{% for i in range(3) %}{% set x = x + [i] %}{% endfor %}{{ x }}",
    "{%- for m in users -%}\n{{ m.name }}\n{%- endfor %}",
    "{% for a in 'ab' for b in 'cd' %}{% endfor %}",
    "{{ raise_exception('no ' ~ n) if n > 3 }}",
    "{% if messages is defined and messages[0].role == 'x' %}y{% endif %}z",
    "{{ users[0]['name'] + ' ' + users[1].name|upper }}",
    "{{ s }}{% if true -%}   \n x {%- endif %}",
    "a{% set x = 'y' -%}   b",
    "{{ lst|join(', ') if lst is iterable and lst is not string else lst }}",
    "{% set a = b = 1 %}",
]


def snippets():
    yield from ("{{ " + line + " }}" for line in EXPRESSIONS.replace("\\\nend", "\\\x00end").strip().split("\n"))
    yield from TEMPLATES


def cases():
    env = environment()
    for snippet in snippets():
        snippet = snippet.replace("\x00", "\n")
        yield snippet, outcome(env, snippet, json.loads(json.dumps(CONTEXT)))


def check(driver):
    process = subprocess.Popen([driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    count = bad = 0
    for snippet, expected in cases():
        process.stdin.write(json.dumps({"template": snippet, "context": CONTEXT}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        count += 1
        if not agrees(expected, answer):
            bad += 1
            print(f"{snippet!r}\n  jinja2: {expected!r}\n  driver: {answer!r}")
    process.stdin.close()
    print(f"{count} snippets compared, {bad} differ")
    return 1 if bad else 0


def write():
    results = [[snippet, *next(iter(expected.items()))] for snippet, expected in cases()]
    lines = ",\n".join(json.dumps(result, ensure_ascii=False) for result in results)
    text = '{"context":' + json.dumps(CONTEXT, ensure_ascii=False) + ',\n"cases":[\n' + lines + "\n]}\n"
    OUT.write_text(text, encoding="utf-8")
    print(f"language.json: {len(text.encode())} bytes, {len(results)} snippets")
    return 0


if __name__ == "__main__":
    sys.exit(check(sys.argv[2]) if sys.argv[1:2] == ["--check"] else write())
