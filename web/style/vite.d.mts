import type { ViteUserConfig } from "vitest/config";

export function page(name: string): ViteUserConfig;
