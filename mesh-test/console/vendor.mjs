// Takes the layout library anew into the page, after `mesh-test/interop/browser/package.json` was changed:
//   cargo xtask peers --only browser && node mesh-test/console/vendor.mjs

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { PAGE, releasedLayout } from "./support.mjs";

const { code, licence } = releasedLayout();
writeFileSync(join(PAGE, "vendor/dagre.js"), code);
writeFileSync(join(PAGE, "vendor/dagre.LICENSE.txt"), licence);
