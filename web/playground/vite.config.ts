import { page } from "duolink-style/vite";
import { defineConfig } from "vitest/config";

export default defineConfig(page("playground"));
