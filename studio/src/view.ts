// What a view of the studio is, and what it is given.
import { Engine, Model } from "./engine";

export interface Context {
  engine: Engine;
  models: Model[];
  // Keep this in the page's address, so that it can be shared. Values that are undefined or equal to the default are left out.
  remember(params: Record<string, string | number | undefined>): void;
}

export interface View {
  element: HTMLElement; // shown while the view is open
  show?(params: URLSearchParams): void | Promise<void>; // it is opened, or its address changed
  hide?(): void; // another one is opened
}

// A view by its name, which is in the address, and made when it is first opened.
export interface ViewKind {
  name: string;
  needsServer?: boolean;
  create(context: Context): View;
}
