"""The jinja2 environment that transformers renders chat templates in, for the scripts beside this one.

Needs jinja2 (3.1.6 made the committed files). The `generation` tag is read here as transformers reads it without
tracking: its body is rendered in a scope of its own.
"""
import datetime
import functools
import json

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What strftime_now shows, and what the engine under test is told: seconds since 1970 of this moment.
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)


class RaisedByTemplate(Exception):
    """raise_exception was called: its text is the template's own."""


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(lineno)

    @staticmethod
    def _body(caller):
        return caller()


def raise_exception(message):
    raise RaisedByTemplate(str(message))


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


@functools.lru_cache(maxsize=64)
def compiled(env, source):
    return env.from_string(source)


def outcome(env, source, context):
    """{"text"} or {"raises"} (the template refuses), {"undefined"} (with jinja2's message) or {"fails"} (its class)."""
    try:
        return {"text": compiled(env, source).render(**context)}
    except RaisedByTemplate as error:
        return {"raises": str(error)}
    except jinja2.exceptions.UndefinedError as error:
        return {"undefined": str(error)}
    except Exception as error:  # every other failure of a template counts as one kind
        return {"fails": type(error).__name__}
