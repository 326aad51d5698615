"""LeNet's cost and all of its gradients against PyTorch's, where that is installed."""

import numpy as np
import pytest
from helpers import network_and_batch

from cnn_lenet import conv_net

torch = pytest.importorskip('torch')


def torch_cost(params, data, labels):
    """The mean cost of LeNet, from tensors in this project's shapes."""
    def kernel(w, channels):                                     # (k*k*c, num) -> (num, c, k, k)
        return w.reshape(5, 5, channels, -1).permute(3, 2, 0, 1)

    x = data.reshape(28, 28, 1, -1).permute(3, 2, 0, 1)                                      # (n, c, h, w)
    x = torch.nn.functional.conv2d(x, kernel(params[1]['w'], 1), params[1]['b'])
    x = torch.nn.functional.max_pool2d(x, 2)
    x = torch.nn.functional.conv2d(x, kernel(params[3]['w'], 20), params[3]['b'])
    x = torch.nn.functional.max_pool2d(x, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)                                                     # (n, h*w*c)
    x = torch.relu(x @ params[5]['w'] + params[5]['b'])
    logits = x @ params[7]['w'] + params[7]['b']
    logits = torch.hstack([logits, torch.zeros(len(logits), 1, dtype=logits.dtype)])         # the last class's is 0
    return torch.nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize('n', [1, 64])
def test_lenets_cost_and_gradients_are_those_of_pytorch(n):
    params, layers, data, labels = network_and_batch('LeNet', n)
    cp, param_grad = conv_net(params, layers, data, labels)
    tensors = {i: {key: torch.tensor(value, requires_grad=True) for key, value in param.items()}
               for i, param in params.items()}
    cost = torch_cost(tensors, torch.tensor(data), torch.tensor(labels))
    cost.backward()
    assert cp['cost'] == pytest.approx(cost.item(), rel=1e-12)
    for i in (1, 3, 5, 7):
        for key in 'wb':
            np.testing.assert_allclose(param_grad[i][key], tensors[i][key].grad.numpy(), rtol=1e-9, atol=1e-12)
