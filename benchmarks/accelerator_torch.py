"""The peers of the accelerator benchmark: torch and transformers on the same chip."""

from __future__ import annotations

import copy
import time

import numpy as np
import torch

TEMPERATURE = 0.6
CALLS = 10  # of attention, in flight together
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def synchronised(run) -> float:
    """Seconds of a call, the chip's work included."""
    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begin


def median(run, repeats: int) -> float:
    """Median seconds, after one call that does not count."""
    synchronised(run)
    return float(np.median([synchronised(run) for _ in range(repeats)]))


def relative(found, expected) -> float:
    """|found - expected| / |expected| in the Euclidean norm; NaN where anything is."""
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def matmul_seconds(size: int) -> float:
    """Of a bfloat16 product of square matrices."""
    x = torch.randn(size, size, dtype=torch.bfloat16, device=DEVICE)
    return median(lambda: x @ x, 10)


def _heads_first(*arrays):
    return [torch.from_dlpack(a).transpose(1, 2).contiguous() for a in arrays]


def exact_attention(q, k, v):
    """Causal attention of the first row in float32, [1, T, H, hd] spread to all rows by caller."""
    outs = []
    for n in range(q.shape[0]):
        q32, k32, v32 = (a[n : n + 1].float() for a in _heads_first(q, k, v))
        math = torch.nn.attention.SDPBackend.MATH
        parts = []
        with torch.nn.attention.sdpa_kernel(math):
            group = q32.shape[1] // k32.shape[1]
            for h in range(q32.shape[1]):
                one = slice(h // group, h // group + 1)
                parts.append(torch.nn.functional.scaled_dot_product_attention(
                    q32[:, h : h + 1], k32[:, one], v32[:, one], is_causal=True))
        outs.append(torch.cat(parts, 1).transpose(1, 2).cpu())
    return torch.cat(outs).numpy()


def attention_seconds(q, k, v, gradient: bool) -> float:
    """torch's own choice of kernel."""
    q, k, v = _heads_first(q, k, v)
    call = lambda: torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True)
    if not gradient:
        with torch.inference_mode():
            return median(lambda: [call() for _ in range(CALLS)], 5) / CALLS
    for a in (q, k, v):
        a.requires_grad_(True)

    def both():
        for _ in range(CALLS):
            torch.autograd.grad(call().float().square().sum(), (q, k, v))

    return median(both, 5) / CALLS


def forward_seconds(model, ids):
    """Seconds, and the last logits."""
    tokens = torch.from_numpy(ids.astype(np.int64)).to(DEVICE)
    with torch.inference_mode():
        run = lambda: model(tokens, logits_to_keep=1, use_cache=False).logits[:, 0]
        return median(run, 5), run().float().cpu().numpy()


def generate_seconds(model, ids, rows: int, new: int, sampling: dict) -> float:
    """`generate` from the prefix's cache, repeated for each row."""
    from transformers import DynamicCache

    tokens = torch.from_numpy(ids.astype(np.int64)).to(DEVICE)[None]

    def run():
        with torch.inference_mode():
            cache = DynamicCache(config=model.config)
            model(tokens[:, :-1], past_key_values=cache, logits_to_keep=1)
            own = copy.deepcopy(cache)
            own.batch_repeat_interleave(rows)
            model.generate(
                tokens.repeat(rows, 1), past_key_values=own, do_sample=True, top_k=0,
                attention_mask=torch.ones(rows, len(ids), dtype=torch.long, device=DEVICE),
                max_new_tokens=new, min_new_tokens=new, eos_token_id=None, pad_token_id=0,
                **sampling)

    return median(run, 2)


def suppression_seconds(model, trace, kind: str, quick: bool):
    """Seconds per source; KL [n, T]; the sources."""
    spans, end = trace.spans, int(trace.spans[:, 1].max())
    ids = torch.from_numpy(trace.ids[:end].astype(np.int64)).to(DEVICE)[None]
    least = torch.finfo(torch.bfloat16).min
    batch = (2 if quick else 8) if kind == "vectorised" else 1
    sources = np.linspace(0, len(spans) - 3, batch).astype(int).tolist()

    def logits(hidden):
        mask = torch.full((end, end), least, dtype=torch.bfloat16, device=DEVICE).triu(1)
        mask = mask[None, None].repeat(len(hidden), 1, 1, 1)
        for row, source in enumerate(hidden):
            if source is not None:
                mask[row, :, :, spans[source, 0] : spans[source, 1]] = least
        return model(input_ids=ids.expand(len(hidden), -1), attention_mask=mask,
                     use_cache=False).logits

    with torch.inference_mode():
        base = torch.log_softmax(logits([None])[0].float() / TEMPERATURE, -1)

        def vectorised():
            rows = []
            for one in logits(sources):
                log_q = torch.log_softmax(one.float() / TEMPERATURE, -1)
                rows.append((base.exp() * (base - log_q)).sum(-1))
            return torch.stack(rows).cpu().numpy()

        def published():
            from scipy.special import rel_entr, softmax

            p = base.exp().cpu().numpy()
            q = logits(sources)[0].float().cpu().numpy()
            return np.asarray([[
                rel_entr(a, softmax(b / TEMPERATURE)).sum() for a, b in zip(p, q, strict=True)]])

        run = vectorised if kind == "vectorised" else published
        kl = run()
        times = [synchronised(run) for _ in range(3 if kind == "vectorised" else 1)]
    return float(np.median(times)) / batch, np.maximum(kl, 0), sources


def receiver_seconds(model, ids, spans):
    """Seconds, means [L, H, S, S], and the bytes of the attention returned."""
    tokens = torch.from_numpy(ids.astype(np.int64)).to(DEVICE)[None]
    average = torch.zeros(len(spans), len(ids), device=DEVICE)
    for row, (start, end) in enumerate(spans):
        average[row, start:end] = 1.0 / (end - start)
    held = []

    def run():
        with torch.inference_mode():
            out = model.model(tokens, output_attentions=True, use_cache=False)
            held[:] = [sum(a.nbytes for a in out.attentions)]
            return torch.stack(
                [average @ weights[0].float() @ average.T for weights in out.attentions])

    seconds = median(run, 3)
    return seconds, run().cpu().numpy(), held[0]


def dictionary_seconds(inputs: int, width: int, latents: int, rows: int, k: int) -> float:
    """A BatchTopK dictionary as it is commonly written: float32 parameters under autocast."""
    decoder = torch.randn(latents, inputs * width, device=DEVICE)
    decoder /= decoder.norm(dim=-1, keepdim=True)
    params = [decoder.T.clone(), torch.zeros(latents, device=DEVICE), decoder,
              torch.zeros(inputs * width, device=DEVICE)]
    for p in params:
        p.requires_grad_(True)
    optimiser = torch.optim.Adam(params, lr=1e-4, fused=DEVICE == "cuda")
    x = torch.randn(rows, inputs * width, device=DEVICE)

    def step():
        encoder, encoder_bias, decoder, decoder_bias = params
        with torch.autocast(DEVICE, torch.bfloat16):
            code = torch.relu(x @ encoder + encoder_bias)
            norms = decoder.reshape(latents, inputs, width).norm(dim=-1).sum(-1)
            scaled = (code.float() * norms).flatten()
            top = torch.topk(scaled, k * rows, sorted=False)
            mask = torch.zeros_like(scaled, dtype=torch.bool).scatter_(0, top.indices, True)
            kept = torch.where(mask.reshape(rows, latents), code, torch.zeros_like(code))
            out = kept @ decoder + decoder_bias
        error = (x - out.float()).reshape(rows, inputs, width)
        loss = error.norm(dim=-1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()

    return median(step, 5)
