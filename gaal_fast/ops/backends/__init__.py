"""Implementations of the public ops, one module per backend, all behind the same interface.

A backend is a module ``gaal_fast.ops.backends.<name>`` with

* ``availability(device) -> str | None``: None where the backend runs on that device, otherwise the reason in one line;
* ``supports(op, *tensors) -> bool``: whether it takes this very call. A cheap look at dtypes, shapes, strides and device, on the host.
  ``tensors`` are the call's floating tensors only, in this order:
  ``softmax_stats(logits)``, ``entropy_topk(logits)``, ``linear_ce_grad(features, logits)``,
  ``project_(*grads, *guides)``, ``guided_linear_ce(features, guide_features, weight)``;
* the five functions (B rows, Y classes, d features, k selected rows, P guide rows)::

    softmax_stats(logits[B,Y], target[B] | None) -> (entropy[B], lse[B], nll[B] | None)
    entropy_topk(logits[B,Y], k) -> (entropy[k], index[k])
    linear_ce_grad(features[B,d], logits[B,Y], target[B], index[k] | None, class_weights[Y] | None)
    -> (grad_weight[Y,d], grad_bias[Y]) project_(grads, guides, rule, epsilon, relative, margin,
    ridge, max_correction) -> (v, dot, guide_norm2, grad_norm2) guided_linear_ce(features[B,d],
    target[B], guide_features[P,d], guide_target[P], weight[Y,d], bias[Y] | None,
                     class_weights[Y] | None, top_k, rule, epsilon, relative, margin, ridge,
                     max_correction)
        -> (loss, grad_features[B,d], grad_weight[Y,d], grad_bias[Y] | None, v, dot, guide_norm2,
        grad_norm2, index[top_k])

What the public wrapper has already seen to when one of these is called: every argument has the
right type and shape and one device; ``features``, ``logits``, ``guide_features``, ``weight`` and
``bias`` share one floating dtype, with any strides (``bias`` contiguous); ``target``,
``guide_target`` and ``index`` are contiguous int64, and in range on the CPU (nowhere else: looking
would cost a synchronisation, so a backend writes NaN for an illegal label); ``class_weights`` is
contiguous float32, or float64 beside float64 features; ``0 <= k <= B`` and ``0 <= top_k <= P``;
``grads`` and ``guides`` are non-empty lists of equal length with equal shapes and dtypes pair by
pair, with any strides; the pairs of one call may differ in dtype among themselves (a backend that
wants one dtype says so in ``supports``); no gradient is being recorded and autocast is off. B, P, k
and d may be 0; Y is at least 1.
"""
