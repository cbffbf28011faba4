/** The newest `capacity` values, oldest first; what is older is forgotten. */
export class Ring<T> {
  private readonly _values: T[] = [];
  private _start = 0;

  constructor(readonly capacity: number) {
    if (!(capacity >= 1)) throw new RangeError("a ring holds at least one value");
  }

  get length(): number {
    return this._values.length;
  }

  push(value: T): void {
    if (this._values.length < this.capacity) {
      this._values.push(value);
    } else {
      this._values[this._start] = value;
      this._start = (this._start + 1) % this.capacity;
    }
  }

  /** The value at an index from the oldest (0), or from the newest (-1). */
  at(index: number): T | undefined {
    const { length } = this._values;
    if (index < 0) index += length;
    return index < 0 || index >= length ? undefined : this._values[(this._start + index) % length];
  }

  toArray(): T[] {
    return [...this._values.slice(this._start), ...this._values.slice(0, this._start)];
  }

  clear(): void {
    this._values.length = 0;
    this._start = 0;
  }
}
