// What a workload proves itself with, and whom it believes.

import { h, replace } from "./dom.js";
import { count } from "./format.js";
import { Table } from "./table.js";

const ROLES = { "mesh-identity": "mesh identity", server: "server", client: "client", intermediate: "intermediate", "client-ca": "CA of clients", "server-ca": "CA of servers" };
const STATES = { valid: "ok", expiring: "warn", expired: "bad", "not-yet-valid": "bad" };

const of = (field) => ({ certificate }) => certificate?.[field] ?? "–";
const day = (field) => ({ certificate }) => (certificate ? { text: certificate[field].slice(0, 10), title: certificate[field] } : "–");
const list = (names) => ({ text: names.length > 2 ? `${names.slice(0, 2).join(", ")} and ${names.length - 2} more` : names.join(", ") || "–", title: names.join("\n") });

export class Certificates {
  #identity = h("p", { class: "aside" });
  #table = new Table({
    caption: "Certificates it shows, and CAs it believes",
    key: ({ key }) => key,
    sort: ["days", 1],
    columns: [
      { id: "role", label: "Role", cell: ({ role }) => ROLES[role] ?? role },
      { id: "state", label: "State", cell: state },
      { id: "days", label: "Days left", num: true, cell: days, sort: (row) => row.certificate?.days_left ?? (row.broken ? -1e9 : null) },
      { id: "used", label: "Used for", cell: ({ used_for: used }) => list(used) },
      { id: "names", label: "Names", hint: "subject alternative names, else the subject", cell: ({ certificate }) => (certificate ? list(certificate.names.length > 0 ? certificate.names : [certificate.subject]) : "–") },
      { id: "subject", label: "Subject", cell: of("subject") },
      { id: "issuer", label: "Issuer", cell: of("issuer") },
      { id: "serial", label: "Serial", cell: of("serial") },
      { id: "key", label: "Key", cell: of("key") },
      { id: "from", label: "Not before", cell: day("not_before") },
      { id: "to", label: "Not after", cell: day("not_after") },
      { id: "origin", label: "From", cell: ({ origin }) => origin || "–" },
      { id: "object", label: "Asked for by", cell: ({ object, field, place }) => ({ text: object || "–", title: [field, place].filter(Boolean).join("\n") }) },
    ],
  });
  element = h("div", { class: "certificates" }, this.#identity, this.#table.element);

  set(rows) {
    const none = rows.find(({ role, certificate }) => role === "mesh-identity" && !certificate);
    const shown = rows.filter((row) => row !== none);
    const worrying = shown.filter(({ broken, certificate }) => broken || (certificate && certificate.standing !== "valid")).length;
    replace(this.#identity, none ? `${none.note[0].toUpperCase()}${none.note.slice(1)}. ` : null, shown.length === 0 ? "It is no gateway, and no DestinationRule has TLS for what it may call." : worrying > 0 ? h("strong", { class: "warn" }, `${count(worrying, "certificate")} of ${shown.length} to look at.`) : null);
    this.#table.element.hidden = shown.length === 0;
    this.#table.set(shown);
  }
}

function state({ certificate, broken, note }) {
  if (certificate) return { text: certificate.standing.replaceAll("-", " "), state: STATES[certificate.standing], title: note || null };
  return { text: note, state: broken ? "bad" : null, title: note };
}

function days({ certificate }) {
  if (!certificate) return "–";
  return { text: certificate.days_left.toLocaleString("en"), state: STATES[certificate.standing] };
}
