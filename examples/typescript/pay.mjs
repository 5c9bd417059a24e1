// Buy a chat answer from a hub with the official, unmodified @x402/fetch.
//
//   node pay.mjs HUB WALLET MODEL QUESTION [CAP]
//
// HUB is the hub's address, WALLET the file of the agent's key, CAP the most for one payment.
// @ts-check

import { x402Client } from "@x402/core/client";
import { decodePaymentResponseHeader, wrapFetchWithPayment } from "@x402/fetch";
import { register, Wallet } from "./hub_scheme.mjs";

const [hub, walletPath, model, question, cap = "$0.50"] = process.argv.slice(2);
if (question === undefined) {
  console.error("usage: node pay.mjs HUB WALLET MODEL QUESTION [CAP]");
  process.exit(2);
}

/** @type {(message: string) => never} */
const giveUp = (message) => {
  console.error(message);
  process.exit(2);
};
const supported = await fetch(`${hub}/x402/supported`)
  .then((answer) => answer.json())
  .catch((error) => giveUp(`no hub answers at ${hub} (${error.cause?.code ?? error.message})`));
const network = supported.kinds
  ?.map((/** @type {{ network: string }} */ kind) => kind.network)
  .find((/** @type {string} */ name) => name.startsWith("hub:"));
if (network === undefined) giveUp(`${hub} is no hub: it names no network of its own`);

/** @returns {Wallet} */
const open = () => {
  try {
    return new Wallet(walletPath);
  } catch (error) {
    return giveUp(`${walletPath} is no wallet's file: ${/** @type {Error} */ (error).message}`);
  }
};
const client = new x402Client();
const witness = register(client, open(), network);
client.setSpendControls({ maxAmountPerPayment: /** @type {any} */ (cap) });
const payingFetch = wrapFetchWithPayment(witness.fetch(), client);

const answer = await payingFetch(`${hub}/x402/v1/chat/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ model, messages: [{ role: "user", content: question }], max_tokens: 24 }),
});
const header = answer.headers.get("PAYMENT-RESPONSE");
const settlement = header === null ? null : decodePaymentResponseHeader(header);
const body = await answer.json();
console.log(
  JSON.stringify({
    status: answer.status,
    text: body.choices?.[0]?.message?.content,
    error: body.error,
    settlement,
  }),
);
process.exit(answer.ok ? 0 : 1);
