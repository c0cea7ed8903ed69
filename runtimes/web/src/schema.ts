/** Checks a value by the keywords of JSON schema that `bundle.schema.json` uses, and fills in its defaults. */

export interface Schema {
  $ref?: string;
  $defs?: Record<string, Schema>;
  anyOf?: Schema[];
  enum?: unknown[];
  type?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  propertyNames?: Schema;
  items?: Schema;
  minItems?: number;
  maxItems?: number;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  default?: unknown;
}

/** Says which part of a value the schema does not allow. */
export class SchemaError extends Error {}

/** Returns the value with defaults filled in; throws SchemaError. `root` holds the definitions. */
export function decode(value: unknown, schema: Schema, root: Schema = schema, at = "$"): unknown {
  if (schema.$ref !== undefined) {
    const name = schema.$ref.slice("#/$defs/".length);
    return decode(value, root.$defs?.[name] ?? {}, root, at);
  }
  if (schema.anyOf !== undefined) return decodeAny(value, schema.anyOf, root, at);
  if (schema.enum !== undefined && !schema.enum.includes(value)) {
    throw new SchemaError(`${at} is ${short(value)}, not one of ${schema.enum.join(", ")}`);
  }
  switch (schema.type) {
    case "object":
      return decodeObject(value, schema, root, at);
    case "array":
      return decodeArray(value, schema, root, at);
    case "integer":
    case "number":
      checkNumber(value, schema, at);
      return value;
    case "string":
      checkString(value, schema, at);
      return value;
    case "boolean":
      if (typeof value !== "boolean") throw new SchemaError(`${at} is ${short(value)}, not true or false`);
      return value;
    case "null":
      if (value !== null) throw new SchemaError(`${at} is ${short(value)}, not null`);
      return value;
    default:
      return value;
  }
}

function decodeAny(value: unknown, schemas: Schema[], root: Schema, at: string): unknown {
  let first: unknown;
  for (const schema of schemas) {
    try {
      return decode(value, schema, root, at);
    } catch (error) {
      first ??= error;
    }
  }
  throw first;
}

function decodeObject(value: unknown, schema: Schema, root: Schema, at: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new SchemaError(`${at} is not an object`);
  }
  const given = value as Record<string, unknown>;
  const known = schema.properties ?? {};
  const result: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(given)) {
    const inner = Object.hasOwn(known, key) ? known[key] : schema.additionalProperties;
    if (inner === false) throw new SchemaError(`${at} has the unknown key ${short(key)}`);
    if (schema.propertyNames) checkString(key, schema.propertyNames, `a key of ${at}`);
    result[key] = typeof inner === "object" ? decode(item, inner, root, `${at}.${key}`) : item;
  }
  for (const [key, inner] of Object.entries(known)) {
    if (Object.hasOwn(given, key)) continue;
    if (schema.required?.includes(key)) throw new SchemaError(`${at} has no ${key}`);
    result[key] = structuredClone(inner.default);
  }
  return result;
}

function decodeArray(value: unknown, schema: Schema, root: Schema, at: string): unknown[] {
  if (!Array.isArray(value)) throw new SchemaError(`${at} is not a list`);
  if (value.length < (schema.minItems ?? 0) || value.length > (schema.maxItems ?? Number.POSITIVE_INFINITY)) {
    throw new SchemaError(`${at} has ${value.length} elements`);
  }
  return value.map((item, index) => decode(item, schema.items ?? {}, root, `${at}[${index}]`));
}

function checkNumber(value: unknown, schema: Schema, at: string): void {
  const right =
    typeof value === "number" &&
    (schema.type !== "integer" || Number.isInteger(value)) &&
    value >= (schema.minimum ?? Number.NEGATIVE_INFINITY) &&
    value <= (schema.maximum ?? Number.POSITIVE_INFINITY) &&
    value > (schema.exclusiveMinimum ?? Number.NEGATIVE_INFINITY) &&
    value < (schema.exclusiveMaximum ?? Number.POSITIVE_INFINITY);
  if (!right) throw new SchemaError(`${at} is ${short(value)}`);
}

function checkString(value: unknown, schema: Schema, at: string): void {
  const right =
    typeof value === "string" &&
    value.length >= (schema.minLength ?? 0) &&
    value.length <= (schema.maxLength ?? Number.POSITIVE_INFINITY) &&
    (schema.pattern === undefined || new RegExp(schema.pattern, "u").test(value));
  if (!right) throw new SchemaError(`${at} is ${short(value)}`);
}

function short(value: unknown): string {
  return (JSON.stringify(value) ?? String(value)).slice(0, 80);
}
