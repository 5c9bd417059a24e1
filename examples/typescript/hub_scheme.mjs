// The hub's network for the official x402 client, by its public interface.
//
// `register` teaches an `x402Client` the schemes `exact` and `upto` of a hub. The official client
// does not tell a scheme which request it pays for, and a dishonest seller could ask for a
// signature on another one; so the fetch below it is a *witness* of what was sent, and nothing
// else is signed.
// @ts-check

import { createHash, createPrivateKey, randomBytes, sign } from "node:crypto";
import { readFileSync } from "node:fs";

const DECIMALS = 9;
const LIFETIME_S_MAX = 3600;
const REQUESTS_SEEN_MAX = 1000;

/** A wallet's key: the private JWK that `tokenworks.sdk.Wallet.save` writes. */
export class Wallet {
  /** @param {string} path */
  constructor(path) {
    const jwk = JSON.parse(readFileSync(path, "utf8"));
    this.address = jwk.x;
    this.key = createPrivateKey({ key: jwk, format: "jwk" });
  }

  /**
   * Sign a payment: the compact JWS of docs/internals/agents.md.
   *
   * @param {import("@x402/core/types").PaymentRequirements} asked
   * @param {{ mandate?: string, reference?: string }} [options]
   */
  authorise(asked, options = {}) {
    const binding = /** @type {any} */ (asked.extra).binding;
    const issued = Math.floor(Date.now() / 1000);
    const header = { alg: "EdDSA", kid: this.address, typ: "tokenworks-payment+jwt" };
    const claims = {
      iss: this.address,
      aud: asked.network,
      jti: uuid7(),
      iat: issued,
      exp: issued + Math.min(asked.maxTimeoutSeconds, LIFETIME_S_MAX),
      scheme: asked.scheme,
      amount: asked.amount,
      asset: asked.asset,
      pay_to: asked.payTo,
      method: binding.method,
      url: binding.url,
      body_sha256: binding.bodySha256,
      ...options,
    };
    const signed = `${part(header)}.${part(claims)}`;
    return `${signed}.${sign(null, Buffer.from(signed), this.key).toString("base64url")}`;
  }
}

/** Remembers which requests this process sent. */
export class Witness {
  /** @type {Set<string>} */
  #seen = new Set();

  /**
   * Return a fetch that notes what it sends.
   *
   * @param {typeof globalThis.fetch} inner
   * @returns {typeof globalThis.fetch}
   */
  fetch(inner = globalThis.fetch) {
    return async (input, init) => {
      const request = new Request(input, init);
      const body = Buffer.from(await request.clone().arrayBuffer());
      const hash = createHash("sha256").update(body).digest("base64url");
      this.#seen.add(nameOf({ method: request.method, url: request.url, bodySha256: hash }));
      for (const oldest of this.#seen) {
        if (this.#seen.size <= REQUESTS_SEEN_MAX) break;
        this.#seen.delete(oldest);
      }
      return inner(request);
    };
  }

  /** @param {{ method: string, url: string, bodySha256: string }} binding */
  saw(binding) {
    return this.#seen.has(nameOf(binding));
  }
}

/** One scheme of a hub, as the official client takes it. */
export class HubScheme {
  /**
   * @param {"exact" | "upto"} scheme
   * @param {Wallet} wallet
   * @param {string} network
   * @param {Witness} witness
   * @param {{ mandate?: string, reference?: string }} [options]
   */
  constructor(scheme, wallet, network, witness, options = {}) {
    this.scheme = scheme;
    this.wallet = wallet;
    this.network = network;
    this.witness = witness;
    this.options = options;
  }

  /**
   * @param {number} x402Version
   * @param {import("@x402/core/types").PaymentRequirements} asked
   */
  async createPaymentPayload(x402Version, asked) {
    const binding = /** @type {any} */ (asked.extra)?.binding;
    if (asked.network !== this.network) {
      throw new Error(`this wallet pays on ${this.network}, not on ${asked.network}`);
    }
    if (binding === undefined || !this.witness.saw(binding)) {
      throw new Error("the seller asks to sign for a request that was not sent; nothing was signed");
    }
    const authorization = this.wallet.authorise(asked, this.options);
    return { x402Version, payload: { authorization } };
  }

  /**
   * Caps in dollars are meant for this asset; others are paid when they are listed.
   *
   * @param {string} asset
   * @param {string} network
   */
  findDefaultAsset(asset, network) {
    if (asset !== "USD" || network !== this.network) return undefined;
    return { asset, symbol: asset, decimals: DECIMALS };
  }
}

/**
 * Teach the official client to pay on a hub's network.
 *
 * @param {import("@x402/core/client").x402Client} client
 * @param {Wallet} wallet
 * @param {string} network
 * @param {{ mandate?: string, reference?: string }} [options]
 */
export function register(client, wallet, network, options = {}) {
  const witness = new Witness();
  for (const scheme of /** @type {const} */ (["upto", "exact"])) {
    client.register(/** @type {any} */ (network), new HubScheme(scheme, wallet, network, witness, options));
  }
  return witness;
}

/** @param {{ method: string, url: string, bodySha256: string }} binding */
function nameOf({ method, url, bodySha256 }) {
  return `${method} ${url} ${bodySha256}`;
}

/** @param {object} value */
function part(value) {
  return Buffer.from(JSON.stringify(value)).toString("base64url");
}

/** RFC 9562: 48 bits of milliseconds, the rest random. */
function uuid7() {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
