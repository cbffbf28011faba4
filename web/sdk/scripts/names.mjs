/** The names of properties in a module that shortens them: which must stay, and what the others become. */

import ts from "typescript";

/** Return the names that somebody else knows: those of the wire, those an application can reach from what
 * the package exports, those of the platform, and those that also stand somewhere as a text. */
export function knownNames(entry, wire) {
  const { program, checker, sources } = compiled(entry, wire);
  const names = new Set(["constructor"]);
  const seen = new Set();

  const foreign = (symbol) =>
    !symbol?.declarations?.some((declaration) => sources.includes(declaration.getSourceFile()));
  const internal = (declaration) =>
    ts.getCombinedModifierFlags(declaration) & ts.ModifierFlags.Private ||
    ts.getJSDocTags(declaration).some((tag) => tag.tagName.text === "internal");

  function reach(symbol) {
    const [declaration] = symbol.declarations ?? [];
    if (!declaration) return;
    walk(checker.getTypeOfSymbolAtLocation(symbol, declaration));
    if (symbol.flags & ts.SymbolFlags.Type) walk(checker.getDeclaredTypeOfSymbol(symbol));
  }

  /** Every name in a type, and in those of its parts, arguments and results. */
  function walk(type) {
    if (seen.has(type)) return;
    seen.add(type);
    for (const part of type.types ?? []) walk(part);
    for (const part of checker.getTypeArguments(type) ?? []) walk(part);
    for (const signature of [...type.getCallSignatures(), ...type.getConstructSignatures()]) {
      if (signature.declaration && internal(signature.declaration)) continue;
      for (const parameter of signature.getParameters()) reach(parameter);
      walk(signature.getReturnType());
    }
    for (const property of type.getProperties()) {
      if (foreign(property) || property.declarations.some(internal)) continue;
      names.add(property.getName());
      reach(property);
    }
  }

  const exported = (path) =>
    checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(path)));
  for (const symbol of exported(entry)) {
    reach(symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol);
  }
  for (const symbol of exported(wire)) {
    if (symbol.name === "Message") reach(symbol);
    if (symbol.name === "FIELDS") {
      for (const type of checker.getTypeOfSymbol(symbol).getProperties()) names.add(type.getName());
    }
  }

  /** The language's own, all of them: some are met only by protocols, as an iterator's `done`. */
  function declared(node) {
    if ((ts.isPropertySignature(node) || ts.isMethodSignature(node)) && ts.isIdentifier(node.name)) {
      names.add(node.name.text);
    }
    ts.forEachChild(node, declared);
  }
  for (const file of program.getSourceFiles())
    if (/[/\\]lib\.es\w+(\.\w+)*\.d\.ts$/.test(file.fileName)) declared(file);

  /** What the platform's objects are asked for or given, and what is a name only when the program runs. */
  function read(node) {
    if (ts.isStringLiteralLike(node)) names.add(node.text);
    if (ts.isPropertyAccessExpression(node) && foreign(checker.getSymbolAtLocation(node.name))) {
      names.add(node.name.text);
    }
    if (ts.isObjectLiteralExpression(node)) {
      const type = checker.getContextualType(node);
      for (const wanted of type?.types ?? [type]) {
        for (const { name } of node.properties) {
          const property = name && wanted?.getProperty(name.getText());
          if (property && foreign(property)) names.add(name.getText());
        }
      }
    }
    if (
      ts.isAsExpression(node) &&
      ts.isTypeLiteralNode(ts.isUnionTypeNode(node.type) ? node.type.types[0] : node.type)
    ) {
      const literal = ts.isUnionTypeNode(node.type) ? node.type.types[0] : node.type;
      for (const { name } of literal.members) names.add(name.getText()); // what the platform's types do not know
    }
    if (ts.isObjectBindingPattern(node)) {
      const given = checker.getTypeAtLocation(node);
      for (const element of node.elements) {
        const name = (element.propertyName ?? element.name).getText();
        if (foreign(given.getProperty(name))) names.add(name);
      }
    }
    ts.forEachChild(node, read);
  }
  for (const file of sources) {
    for (const statement of file.statements) if (!ts.isImportDeclaration(statement)) read(statement);
  }
  return [...names].filter((name) => /^[a-zA-Z]\w*$/.test(name)).sort();
}

function compiled(...entries) {
  const { config } = ts.readConfigFile("tsconfig.json", ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, ".");
  const program = ts.createProgram(entries, options);
  const sources = program.getSourceFiles().filter((file) => /[/\\]src[/\\]/.test(file.fileName));
  return { program, checker: program.getTypeChecker(), sources };
}

/** In the order of how often they stand in a minified module: what stands there already packs better. */
const LETTERS = "tsehirnlaoucdfbpwgmyvkMxqSATIzONCRJLFPBDUWGKHXVQYZj_$";

/** Return a letter for every other name. Two names share one if no type has both: what has the one never has
 * the other. A name that may be absent shares with nobody, since what lacks it may have anything else. */
export function shortNames(entry, known) {
  const { checker, sources } = compiled(entry);
  const kept = new Set(known);
  const together = new Map(); // name → the names it stands beside in some type
  const alone = new Set();
  const count = new Map();
  const mine = (name) => /^\w+$/.test(name) && !kept.has(name);

  function met(type) {
    const properties = type.getProperties().filter((property) => mine(property.getName()));
    const names = properties.map((property) => property.getName());
    for (const property of properties) {
      const name = property.getName();
      if (property.flags & ts.SymbolFlags.Optional) alone.add(name);
      together.set(name, new Set([...(together.get(name) ?? []), ...names]));
    }
  }

  function visit(node) {
    const declares = ts.isClassDeclaration(node) || ts.isInterfaceDeclaration(node);
    if (declares || ts.isTypeNode(node) || ts.isObjectLiteralExpression(node)) {
      met(checker.getTypeAtLocation(node));
    }
    if (ts.isClassDeclaration(node)) met(checker.getTypeOfSymbol(node.symbol)); // its static side
    if (ts.isIdentifier(node)) count.set(node.text, (count.get(node.text) ?? 0) + 1);
    ts.forEachChild(node, visit);
  }
  for (const file of sources) visit(file);

  const short = {};
  for (const name of [...together.keys()].sort((a, b) => count.get(b) - count.get(a))) {
    const taken = new Set([...together.get(name)].map((each) => short[each]));
    const letter = [...LETTERS].find((each) => !taken.has(each) && !kept.has(each));
    if (alone.has(name)) short[name] = `$${alone.size}`;
    else if (letter) short[name] = letter;
    alone.delete(name);
  }
  return short;
}
