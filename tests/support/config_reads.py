"""Which keys of the configuration are read, told from the types of what they are read from."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from BC_training.common.config import Config
from BC_training.common.types import Section

Kinds = set[type]
"""The sections that an expression may be."""


def sections(annotation: object) -> Kinds:
    """The section classes in an annotation, unions included."""
    if isinstance(annotation, type):
        return {annotation} if issubclass(annotation, Section) else set()
    parts = getattr(annotation, "__args__", ())
    return set().union(*(sections(part) for part in parts))


class Reads(ast.NodeVisitor):
    """Collects (section, key) of every read in a module, following annotations and assignments."""

    def __init__(self, module: ModuleType):
        self.module, self.found = module, set()
        self.names: list[dict[str, Kinds]] = [{}]
        self.attributes: dict[str, Kinds] = {}

    def annotated(self, node: ast.AST | None) -> Kinds:
        names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)] if node else []
        if isinstance(node, ast.Constant):
            names = [str(node.value)]
        return set().union(*(sections(getattr(self.module, name, None)) for name in names))

    def kinds(self, node: ast.AST) -> Kinds:
        if isinstance(node, ast.Name):
            return next((n[node.id] for n in reversed(self.names) if node.id in n), set())
        if isinstance(node, ast.BoolOp | ast.IfExp):
            return set().union(*(self.kinds(child) for child in ast.iter_child_nodes(node)))
        if not isinstance(node, ast.Attribute):
            return set()
        owners = self.kinds(node.value)
        fields = [owner.model_fields.get(node.attr) for owner in owners]
        inner = set().union(*(sections(field.annotation) for field in fields if field))
        if owners:
            return inner
        return self.attributes.get(node.attr) or ({Config} if node.attr == "config" else set())

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.found |= {(owner, node.attr) for owner in self.kinds(node.value)}
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        for keyword in node.keywords:  # Adapter(**section.model_dump())
            call = keyword.value
            if keyword.arg is None and isinstance(call, ast.Call):
                whole = self.kinds(getattr(call.func, "value", call))
                self.found |= {(kind, key) for kind in whole for key in kind.model_fields}
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        target, value = node.targets[0], node.value
        is_tuple = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        pairs = zip(target.elts, value.elts, strict=False) if is_tuple else [(target, value)]
        for name, part in pairs:
            if isinstance(name, ast.Name):
                self.names[-1][name.id] = self.kinds(part)
            elif isinstance(name, ast.Attribute) and (kinds := self.kinds(part)):
                self.attributes[name.attr] = kinds

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name):
            self.attributes.setdefault(node.target.id, self.annotated(node.annotation))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.names.append({"self": sections(getattr(self.module, node.name, None))})
        self.generic_visit(node)
        self.names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if any("validator" in ast.unparse(decorator) for decorator in node.decorator_list):
            return  # judges a value, which is no use of it
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.names.append({a.arg: self.annotated(a.annotation) for a in arguments if a.annotation})
        self.generic_visit(node)
        self.names.pop()


def reads(package: Path) -> set[tuple[type, str]]:
    """Every (section, key) that the modules of a package read."""
    found = set()
    for file in package.rglob("*.py"):
        parts = file.relative_to(package.parent).with_suffix("").parts
        try:
            module = importlib.import_module(".".join(p for p in parts if p != "__init__"))
        except ImportError:
            continue  # it needs an optional package
        visitor = Reads(module)
        tree = ast.parse(file.read_text())
        visitor.visit(tree)
        visitor.visit(tree)  # once more, with the attributes that were set below their use
        found |= visitor.found
    return found


def unread(schema: type[Section], found: set[tuple[type, str]]) -> Iterator[str]:
    """The keys of a schema that nothing reads from their own section."""
    for name, field in schema.model_fields.items():
        inner = sections(field.annotation)
        for kind in inner:
            yield from (f"{name}.{key}" for key in unread(kind, found))
        if not inner and not any(
            key == name and (issubclass(schema, owner) or issubclass(owner, schema))
            for owner, key in found
        ):
            yield name
