# SPDX-License-Identifier: Apache-2.0
"""The package's ctypes are the header's C: every struct, enumeration and function, and nothing else. Needs a C compiler, not
torch.

usage: abi_test.py HEADER (CC names the compiler)
"""
import ctypes
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SOURCES = pathlib.Path(__file__).resolve().parents[2]
HEADER = SOURCES / "include" / "cardea" / "cardea.h"

# Alone, without the package, whose __init__ needs torch.
_spec = importlib.util.spec_from_file_location("_c", SOURCES / "examples" / "pytorch" / "cardea" / "_c.py")
c = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(c)

C_TYPES = {
    ctypes.c_char: "char",
    ctypes.c_char_p: "const char *",
    ctypes.c_int: "int",
    ctypes.c_uint8: "uint8_t",
    ctypes.c_uint32: "uint32_t",
    ctypes.c_uint64: "uint64_t",
    ctypes.c_void_p: "void *",
}
# ctypes has one type for all integers of a size and sign.
SAME = {"int32_t": "int", "size_t": "uint64_t", **{name: "int" for name, _, _ in c.ENUMS}}


def header_text():
    text = re.sub(r"/\*.*?\*/", " ", HEADER.read_text(), flags=re.S)
    return re.sub(r"\\\n", " ", text)


def compile_and_run(program):
    """What a C program prints that includes the header."""
    with tempfile.TemporaryDirectory() as directory:
        source, binary = f"{directory}/a.c", f"{directory}/a"
        pathlib.Path(source).write_text(program)
        command = [os.environ.get("CC") or "cc", "-std=c11", "-Wall", "-Werror", f"-I{SOURCES / 'include'}", source, "-o", binary]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode != 0:
            raise AssertionError(f"the program does not compile:\n{built.stderr}\n{program}")
        return subprocess.run([binary], capture_output=True, text=True, check=True).stdout


class Abi(unittest.TestCase):
    def test_the_same_structs(self):
        declared = set(re.findall(r"\}\s*(cardea_\w+_t)\s*;", header_text())) - {name for name, _, _ in c.ENUMS}
        self.assertGreater(len(declared), 20, "this test no longer understands the header")
        self.assertEqual(declared, set(c.STRUCTS))

    def test_every_field_lies_where_c_has_it(self):
        lines = []
        for name, struct in c.STRUCTS.items():
            lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
            for field in struct._fields_:
                lines.append(
                    f'printf("{name} {field[0]} %zu %zu\\n", offsetof({name}, {field[0]}), sizeof((({name} *)0)->{field[0]}));'
                )
        body = "\n".join(lines)
        printed = compile_and_run(f"#include <cardea/cardea.h>\n#include <stdio.h>\nint main(void) {{\n{body}\nreturn 0;\n}}\n")
        mine = []
        for name, struct in c.STRUCTS.items():
            mine.append(f"{name} {ctypes.sizeof(struct)}")
            for field in struct._fields_:
                descriptor = getattr(struct, field[0])
                mine.append(f"{name} {field[0]} {descriptor.offset} {descriptor.size}")
        self.assertEqual(printed.split("\n")[:-1], mine)

    def test_the_same_fields(self):
        """sizeof does not see a field that fills what was padding."""
        for name, body in re.findall(r"typedef struct \w+ \{([^}]*)\}\s*(cardea_\w+_t)\s*;", header_text()):
            name, body = body, name
            fields = []
            for declaration in filter(None, (part.strip() for part in body.split(";"))):
                for declarator in declaration.split(","):
                    fields.append(re.search(r"(\w+)\s*(\[\w+\])?\s*$", declarator).group(1))
            with self.subTest(struct=name):
                self.assertEqual(fields, [field[0] for field in c.STRUCTS[name]._fields_])

    def test_the_same_enumerations(self):
        found = {}
        for body, name in re.findall(r"typedef enum \w+ \{([^}]*)\}\s*(cardea_\w+_t)\s*;", header_text()):
            found[name] = {key: int(value, 0) for key, value in re.findall(r"(\w+)\s*=\s*(-?\w+)", body)}
        self.assertEqual(set(found), {name for name, _, _ in c.ENUMS})
        for name, prefix, enumeration in c.ENUMS:
            with self.subTest(enumeration=name):
                self.assertEqual(found[name], {prefix + e: int(v) for e, v in enumeration.__members__.items()})

    def test_the_same_functions(self):
        """Names, and argument by argument the types, by having C assign each function to a pointer of our type."""
        text = header_text()
        declared = set(re.findall(r"CARDEA_API[^;(]*?(cardea_\w+)\s*\(", text))
        self.assertGreater(len(declared), 30, "this test no longer understands the header")
        self.assertEqual(declared, set(c.FUNCTIONS))
        names = {struct: name for name, struct in c.STRUCTS.items()}
        # What ctypes cannot say: const, and which int is an enumeration. A call with one more or less, or of another size or
        # kind, does not compile.
        lines = []
        for name, arguments in c.FUNCTIONS.items():
            values = []
            for argument in arguments:
                if argument in names:
                    values.append(f"({names[argument]}){{0}}")
                elif argument in C_TYPES:
                    values.append(f"({C_TYPES[argument]})0")
                else:
                    pointee = argument._type_
                    values.append(f"({names.get(pointee) or C_TYPES[pointee]} *)0")
            lines.append(f"  (void)sizeof({name}({', '.join(values)}));")
            parameters = re.search(rf"\b{name}\s*\(([^)]*)\)", text).group(1)
            with self.subTest(function=name):
                given = [] if parameters.strip() == "void" else parameters.split(",")
                self.assertEqual(len(given), len(arguments))
                for parameter, argument in zip(given, arguments):
                    is_pointer = "*" in parameter
                    self.assertEqual(is_pointer, hasattr(argument, "_type_") and not isinstance(argument._type_, str)
                                     or argument in (ctypes.c_char_p, ctypes.c_void_p), parameter)
                    if not is_pointer and argument not in names:  # C converts numbers silently: compare the types by name
                        written = " ".join(parameter.split()[:-1])
                        self.assertEqual(SAME.get(written, written), C_TYPES[argument], parameter)
        body = "\n".join(lines)
        compile_and_run(f"#include <cardea/cardea.h>\nint main(void) {{\n{body}\n  return 0;\n}}\n")

    def test_init_is_what_the_macros_are(self):
        """Byte for byte, for every struct that has an _INIT macro."""
        macros = dict.fromkeys(re.findall(r"#define CARDEA_(\w+)_INIT\b", header_text()))
        structs = {name[len("cardea_"):-len("_t")].upper(): (name, struct) for name, struct in c.STRUCTS.items()}
        sized = {key for key, (_, struct) in structs.items() if struct._fields_[0][0] == "size"}
        self.assertEqual(set(macros), sized)
        # Padding may hold anything in C, so fields are printed, not bytes.
        lines, mine = [], []
        for key in sorted(sized):
            name, struct = structs[key]
            made = c.init(struct)
            lines.append(f"  {{ static const {name} value = CARDEA_{key}_INIT;")
            for field in struct._fields_:
                offset, size = getattr(struct, field[0]).offset, getattr(struct, field[0]).size
                lines.append(f'    show("{name}.{field[0]}", (const unsigned char *)&value + {offset}, {size});')
                raw = bytes((ctypes.c_ubyte * size).from_address(ctypes.addressof(made) + offset))
                mine.append(f"{name}.{field[0]} {raw.hex()}")
            lines.append("  }")
        body = "\n".join(lines)
        printed = compile_and_run(
            "#include <cardea/cardea.h>\n#include <stdio.h>\n"
            "static void show(const char *name, const unsigned char *at, unsigned long size) {\n"
            '  printf("%s ", name);\n  for (unsigned long i = 0; i < size; ++i) printf("%02x", at[i]);\n  puts("");\n}\n'
            f"int main(void) {{\n{body}\n  return 0;\n}}\n"
        )
        self.assertEqual(printed.split("\n")[:-1], mine)

    def test_the_same_numbers(self):
        values = {"FOREVER": c.FOREVER, "NO_RANK": c.NO_RANK, "NO_EXPERT": c.NO_EXPERT, "NO_CACHE": c.NO_CACHE, "STREAM_DEFAULT": c.STREAM_DEFAULT,
                  "MAX_SEGMENTS": c.MAX_SEGMENTS}
        lines = "".join(f'printf("%llu\\n", (unsigned long long)(uintptr_t)CARDEA_{name});' for name in values)
        printed = compile_and_run(f"#include <cardea/cardea.h>\n#include <stdio.h>\nint main(void) {{ {lines} return 0; }}\n")
        self.assertEqual([int(line) for line in printed.split()], list(values.values()))


if __name__ == "__main__":
    unittest.main(verbosity=1, argv=sys.argv[:1])
